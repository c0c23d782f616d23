"""Evaluations that are killed, resumed, shared out and merged, or not to be mixed."""

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import inference_eval
from run_lib.commands import InputError, RunStopped
from search_lib import open_models
from search_lib.results.blocks import BlocksFile, RunBlocks
from search_lib.results.records import RecordFile, parse_record, read_records
from search_lib.results.shards import merge
from tests.support.flags import replace_flags
from tests.support.searches import (
    PLAIN,
    as_command,
    assert_same_searches,
    keys,
    make_args,
)
from tests.support.tiny_models import save_tiny_classifier


def test_a_search_stopped_between_its_blocks_and_its_record_runs_again(
    models, tmp_path, monkeypatch
):
    args = make_args(models, tmp_path, max_concurrent=1)
    append = RecordFile.append

    def stop_at_the_third(records, record):
        if len(records.finished) == 2:
            raise RunStopped("killed")
        append(records, record)

    monkeypatch.setattr(RecordFile, "append", stop_at_the_third)
    with pytest.raises(RunStopped, match="killed"):
        inference_eval.main(args)
    path = tmp_path / "blocks.jsonl"
    written, recorded = path.read_bytes(), args.output_path.read_bytes()
    assert len(written.splitlines()) == 3
    monkeypatch.setattr(RecordFile, "append", append)
    assert inference_eval.main(args) == 0
    # Neither file was rewritten: the line without a record is still there, and nobody's.
    assert path.read_bytes().startswith(written)
    assert args.output_path.read_bytes().startswith(recorded)
    assert len(path.read_bytes().splitlines()) == 7
    run = RunBlocks(args.output_path)
    lines = [run.line_of(record) for record in read_records(args.output_path)]
    assert written.splitlines(keepends=True)[2] not in lines
    assert sorted(lines) == sorted(
        {*path.read_bytes().splitlines(keepends=True)} - {written.splitlines(keepends=True)[2]}
    )


def test_a_run_that_is_whole_does_not_read_its_blocks(models, tmp_path, monkeypatch):
    few = {"max_problems": 1, "num_repetitions": 1}
    args = make_args(models, tmp_path, search_type="bon", **few, **PLAIN)
    assert inference_eval.main(args) == 0
    monkeypatch.setattr(BlocksFile, "recover", None)
    assert inference_eval.main(args) == 0


def test_runs_with_values_and_without_are_not_mixed(models, tmp_path, monkeypatch, capsys):
    args = make_args(models, tmp_path, search_type="bon", **PLAIN)
    inference_eval.main(args)
    before = args.output_path.read_bytes()
    valued = {"scorer": "hf", "classifier_ckpt_path": str(models / "value_model")}
    with pytest.raises(InputError, match=r"--scorer \(was 'none', now 'hf'\)"):
        inference_eval.main(replace_flags(args, **valued))
    assert args.output_path.read_bytes() == before
    # The value model that isn't there plays no part.
    monkeypatch.setattr(open_models, "open_engine", None)
    assert inference_eval.main(replace_flags(args, classifier_ckpt_path="another")) == 0
    assert "6 searches are there, 0 to run" in capsys.readouterr().out


def test_shards_of_plain_sampling_are_merged(models, tmp_path):
    args = make_args(models, tmp_path, search_type="bon", **PLAIN)
    for shard in ("0/2", "1/2"):
        assert inference_eval.main(replace_flags(args, shard=shard)) == 0
    merge(tuple(tmp_path.glob("shard-*-of-2/records.jsonl")), args.output_path)
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert {row["method"] for row in document["metrics"]} == {"MV", "pass@1", "pass@k"}


def test_a_finished_run_loads_no_model_and_reports_again(models, tmp_path, monkeypatch, capsys):
    args = make_args(models, tmp_path)
    inference_eval.main(args)
    before = args.output_path.read_bytes()
    monkeypatch.setattr(open_models, "open_engine", None)
    assert inference_eval.main(replace_flags(args, max_concurrent=1)) == 0
    assert args.output_path.read_bytes() == before
    assert "6 searches are there, 0 to run" in capsys.readouterr().out
    assert inference_eval.main(replace_flags(args, answers="published")) == 0
    assert json.loads((tmp_path / "metrics.published.json").read_text())["answers"] == "published"
    assert json.loads((tmp_path / "metrics.json").read_text())["answers"] == "strict"
    assert json.loads((tmp_path / "run_config.json").read_text())["answers"] == "strict"


def test_shards_merged_are_the_run_of_one_machine(models, tmp_path, monkeypatch, capsys):
    whole = make_args(models, tmp_path / "whole")
    inference_eval.main(whole)
    args = make_args(models, tmp_path / "sharded")
    paths = []
    for shard in ("0/2", "1/2"):
        part = replace_flags(args, shard=shard, max_concurrent=2)
        assert inference_eval.main(part) == 0
        paths.append(tmp_path / "sharded" / f"shard-{shard[0]}-of-2" / "records.jsonl")
        # Half of the searches are no run: there are no metrics to be taken for one.
        assert not list((tmp_path / "sharded").rglob("metrics.json"))
        assert inference_eval.main(part) == 0
        assert f"3 searches are there, 0 to run\nshard {shard}: 3 searches in" in (
            capsys.readouterr().out
        )
    merge(tuple(paths), args.output_path)
    assert_same_searches(args.output_path, whole.output_path)
    runs = [RunBlocks(path) for path in (args.output_path, whole.output_path)]
    by_key = {record.key: record for record in read_records(whole.output_path)}
    for record in read_records(args.output_path):
        ours, theirs = runs[0].of(record), runs[1].of(by_key[record.key])
        assert [block.token_ids.tolist() for block in ours.blocks] == [
            block.token_ids.tolist() for block in theirs.blocks
        ]
    documents = [
        json.loads(path.with_name("metrics.json").read_text())
        for path in (args.output_path, whole.output_path)
    ]
    for document in documents:
        del document["summary"]["search_seconds"]
        cost = document.pop("cost")
        assert cost["tokens_generated"] == sum(
            record.cost.tokens_generated for record in read_records(whole.output_path)
        )
    assert documents[0] == documents[1]
    # The one machine's command takes it for its own.
    monkeypatch.setattr(open_models, "open_engine", None)
    assert inference_eval.main(args) == 0
    assert "6 searches are there, 0 to run" in capsys.readouterr().out


def test_killed_at_random_moments_every_search_is_there_once(models, tmp_path):
    args = make_args(
        models, tmp_path, max_problems=None, num_repetitions=2, max_concurrent=4, max_length=24
    )
    total = 400
    rng = random.Random(0)
    for target in [0, *sorted(rng.sample(range(1, total - 50), 3))]:
        process = subprocess.Popen(as_command(args), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if args.output_path.exists() and args.output_path.read_bytes().count(b"\n") >= target:
                break
            time.sleep(rng.random() * 0.005)  # the moment of the kill is left to chance
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    damaged = args.output_path.read_bytes()
    args.output_path.write_bytes(damaged[:200] + b"\0" * 300 + damaged[500:] + damaged[:77])
    last = subprocess.run(as_command(args), capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    lines = args.output_path.read_bytes().splitlines(keepends=True)
    assert all(line.endswith(b"\n") and parse_record(line) for line in lines)
    assert len(lines) == total
    assert sorted(keys(args.output_path)) == [
        (f"toy-{problem:03d}", repetition) for problem in range(200) for repetition in range(2)
    ]
    # Every record has its blocks, those of searches that ran twice included.
    run = RunBlocks(args.output_path)
    for record in read_records(args.output_path):
        assert len(run.of(record).blocks) == len(record.tree)
    # What the run took adds up over all sessions, those that were killed included.
    costs = [record.cost for record in read_records(args.output_path)]
    document = json.loads((tmp_path / "metrics.json").read_text())["cost"]
    assert document["tokens_generated"] == sum(cost.tokens_generated for cost in costs)
    assert document["tokens_scored"] == sum(cost.tokens_scored for cost in costs)
    ends = {}
    for cost in costs:
        ends[cost.session] = max(ends.get(cost.session, 0.0), cost.session_seconds)
    assert len(document["sessions"]) == len(ends) > 2
    assert document["wall_seconds"] == pytest.approx(sum(ends.values()))
    assert 0 < document["engine_busy_share"] <= 1


def test_a_run_of_another_configuration_is_refused_by_flag(models, tmp_path):
    args = make_args(models, tmp_path)
    inference_eval.main(args)
    before = args.output_path.read_bytes()
    other = replace_flags(args, seed=5, temperature=0.5, max_concurrent=9)
    with pytest.raises(InputError) as refusal:
        inference_eval.main(other)
    assert (
        "made with other settings: --temperature (was 1.0, now 0.5), --seed (was 1337, now 5)."
        in str(refusal.value)
    )
    assert "max_concurrent" not in str(refusal.value)
    with pytest.raises(InputError, match=r"--output_path \(was 'records.jsonl', now 'b.jsonl'\)"):
        inference_eval.main(replace_flags(args, output_path=tmp_path / "b.jsonl"))
    assert not (tmp_path / "b.jsonl").exists()
    assert args.output_path.read_bytes() == before
    (tmp_path / "run_config.json").unlink()
    with pytest.raises(InputError, match=r"is not empty, and no run_config.json beside it"):
        inference_eval.main(args)


def test_a_run_of_a_version_without_confidences_goes_on_without_them(models, tmp_path):
    args = make_args(models, tmp_path, max_problems=1)
    assert inference_eval.main(args) == 0
    config = json.loads((tmp_path / "run_config.json").read_text())
    del config["confidence"]
    (tmp_path / "run_config.json").write_text(json.dumps(config))
    assert inference_eval.main(args) == 0
    with pytest.raises(InputError, match=r"--confidence \(was None, now 2048\)"):
        inference_eval.main(replace_flags(args, confidence=2048))


def test_retrained_weights_in_the_same_folder_are_another_configuration(models, tmp_path):
    shutil.copytree(models, tmp_path / "models")
    args = make_args(tmp_path / "models", tmp_path / "run")
    inference_eval.main(args)
    save_tiny_classifier(tmp_path / "models" / "value_model", seed=9)
    message = r"other settings: --classifier_ckpt_path \(its content has changed\)\."
    with pytest.raises(InputError, match=message):
        inference_eval.main(args)


def test_a_configuration_without_records_binds_nobody(models, tmp_path):
    args = make_args(models, tmp_path)
    inference_eval.main(args)
    args.output_path.unlink()
    assert inference_eval.main(replace_flags(args, seed=3)) == 0
    assert json.loads((tmp_path / "run_config.json").read_text())["seed"] == 3


def test_a_folder_named_like_the_benchmark_may_hold_the_run(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = make_args(models, Path("toy"))
    inference_eval.main(args)
    assert inference_eval.main(args) == 0


def test_a_data_set_is_not_taken_for_records(models, tmp_path):
    problems = tmp_path / "mine.jsonl"
    problems.write_text('{"problem": "start 1 +2", "answer": "3"}\n')
    args = make_args(models, tmp_path, benchmark=str(problems), output_path=problems)
    with pytest.raises(InputError, match=r"is not empty, and no run_config.json"):
        inference_eval.main(args)
    assert problems.read_text() == '{"problem": "start 1 +2", "answer": "3"}\n'


def test_interrupted_it_leaves_at_once_with_whole_records(models, tmp_path):
    args = make_args(
        models, tmp_path, max_problems=None, num_repetitions=16, max_concurrent=4, max_length=24
    )
    process = subprocess.Popen(as_command(args), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if args.output_path.exists() and args.output_path.stat().st_size:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in errors
    assert all(map(parse_record, args.output_path.read_bytes().splitlines()))


def test_a_disk_that_gets_full_ends_the_run_in_one_line_and_costs_no_record(models, tmp_path):
    args = make_args(models, tmp_path)
    limited = ["prlimit", "--fsize=6000", *as_command(args)]
    first = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert first.returncode == 1
    line = f"inference_eval.py: stopped: [Errno 27] File too large: '{args.output_path}'"
    assert first.stderr == f"{line}; the same command goes on\n"
    lines = args.output_path.read_bytes().splitlines(keepends=True)
    assert 0 < len(lines) < 6
    assert all(map(parse_record, lines))
    assert inference_eval.main(args) == 0
    assert args.output_path.read_bytes().splitlines(keepends=True)[: len(lines)] == lines
    assert len(set(keys(args.output_path))) == 6

"""The evaluation as a user runs it: its command line, its bad inputs, its kills."""

import json
import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import inference_eval
from classifier_lib.loading import load_value_model
from run_lib.commands import InputError, RunStopped, parse_command_line
from run_lib.hub import load_tokenizer
from run_lib.settings import as_json, free_flags
from search_lib.answer_formats import ANSWER_FORMATS
from search_lib.engines.base import Sampling
from search_lib.engines.flags import EngineFlags
from search_lib.results.blocks import RunBlocks
from search_lib.results.cost import SearchCost
from search_lib.results.records import Record, RecordFile, parse_record, read_records
from search_lib.results.shards import merge
from search_lib.search_args import Args
from tests.support.flags import replace_flags
from tests.support.searches import as_command, make_args, responses
from tests.support.tiny_models import add_code, save_tiny_classifier, save_tiny_policy


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_policy(folder / "policy", dtype=torch.float64)
    save_tiny_classifier(folder / "value_model")
    return folder


def keys(path: Path) -> list[tuple[str, int]]:
    return [(record.problem_id, record.repetition) for record in read_records(path)]


def test_the_published_command_parses_and_means_the_same():
    command = """--benchmark aime-24 --piref_gpu_util 0.75
        --piref_model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --seed 7996 --batch_size 10
        --num_blocks 8 --block_size 4096 --max_length 16384 --temperature 0.6 --top_p 0.95
        --classifier_ckpt_path VGS-AI/DeepSeek-VM-1.5B --num_repetitions 16
        --output_path inference_outputs.jsonl --attention_impl flash_attention_2
        --search_type beam2 --neptune_project cornell-rl/oss-infer-eval"""
    assert parse_command_line(Args, "inference_eval.py", None, command.split()) == Args(
        benchmark="aime-24",
        piref_model="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        seed=7996,
        max_concurrent=10,
        num_blocks=8,
        block_size=4096,
        max_length=16384,
        sampling=Sampling(temperature=0.6, top_p=0.95),
        classifier_ckpt_path="VGS-AI/DeepSeek-VM-1.5B",
        num_repetitions=16,
        output_path=Path("inference_outputs.jsonl"),
        engine_flags=EngineFlags(gpu_util=0.75, attention_impl="flash_attention_2"),
        search_type="beam2",
        neptune_project="cornell-rl/oss-infer-eval",
    )


@pytest.mark.parametrize("search_type", ["beam2", "bfs", "bon", "random"])
def test_a_run_writes_records_metrics_and_its_configuration(models, tmp_path, capsys, search_type):
    args = make_args(models, tmp_path, search_type=search_type)
    assert inference_eval.main(args) == 0
    records = list(read_records(args.output_path))
    assert sorted(r.key for r in records) == [(f"toy-00{p}", r) for p in range(3) for r in range(2)]
    for record in records:
        assert len(record.responses) == {"bfs": 1, "bon": 4}.get(search_type, 2)
        assert all(1 <= r.num_tokens <= 32 for r in record.responses)
        assert sum(node.num_tokens for node in record.tree) == record.cost.tokens_generated
        # Every token of the tree went through the value model once, the prompt at most once.
        assert 0 <= record.cost.tokens_scored - record.cost.tokens_generated < 100
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert {(row["method"], row["budget"]) for row in document["metrics"]} == {
        (method, budget) for method in ("MV", "WMV", "BoN", "pass@1", "pass@k") for budget in (4, 8)
    }
    assert document["summary"]["num_searches"] == 6
    cost = document["cost"]
    scored = sum(record.cost.tokens_scored for record in records)
    assert cost["tokens_scored"] == scored
    assert cost["tokens_cached"] > 0
    size = cost["value_model_size"]
    assert cost["value_model_flops"] == 2 * size["num_matmul_parameters"] * scored + 4 * size[
        "attention_width"
    ] * sum(record.cost.contexts_scored for record in records)
    assert cost["policy_flops"] > 0
    assert 0 < cost["engine_busy_share"] <= 1
    assert len(cost["sessions"]) == 1
    assert json.loads((tmp_path / "run_config.json").read_text())["search_type"] == search_type
    table = capsys.readouterr().out
    assert "3 of 3 problems complete" in table
    assert ["budget", "4", "8"] in [line.split() for line in table.splitlines()]


PLAIN = {"scorer": "none", "classifier_ckpt_path": "/absent"}


@pytest.mark.parametrize("search_type", ["bon", "random"])
def test_plain_sampling_needs_no_value_model(models, tmp_path, capsys, search_type):
    args = make_args(models, tmp_path, search_type=search_type, **PLAIN)
    assert inference_eval.main(args) == 0
    records = list(read_records(args.output_path))
    assert len(records) == 6
    for record in records:
        assert {part.value for part in [*record.responses, *record.tree]} == {None}
        assert record.cost.tokens_generated > 0
        scoring = record.cost.tokens_scored, record.cost.contexts_scored, record.cost.tokens_cached
        assert scoring == (0, 0, 0)
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert {row["method"] for row in document["metrics"]} == {"MV", "pass@1", "pass@k"}
    assert document["cost"]["value_model_flops"] == 0
    assert document["cost"]["value_model_size"] is None
    assert document["cost"]["policy_flops"] > 0
    table = [line.split()[:1] for line in capsys.readouterr().out.splitlines()]
    assert ["MV"] in table
    assert ["WMV"] not in table
    config = json.loads((tmp_path / "run_config.json").read_text())
    assert config["classifier_ckpt_path"] is config["fingerprints"]["classifier_ckpt_path"] is None


def valued_directly(args: Args, paths: list[list[int]]) -> list[list[float]]:
    """P(correct) after every token of each path, each of them in a forward of its own."""
    model = load_value_model(args.classifier_ckpt_path, "sdpa", torch.float32, torch.device("cpu"))
    with torch.no_grad():
        return [model(torch.tensor([path])).success_probs[0].tolist() for path in paths]


@pytest.mark.parametrize("search_type", ["beam2", "bfs", "bon", "random"])
def test_the_blocks_of_a_tree_are_kept_with_the_values_of_their_tokens(
    models, tmp_path, search_type
):
    changes = {"search_type": search_type, "max_problems": 1, "token_values": True}
    args = make_args(models, tmp_path, **changes)
    assert inference_eval.main(args) == 0
    tokenizer = load_tokenizer(args.piref_model)
    run = RunBlocks(args.output_path)
    for record in read_records(args.output_path):
        search = run.of(record)
        assert [block.node for block in search.blocks] == record.tree
        assert record.problem in tokenizer.decode(search.prompt_ids)
        for response in record.responses:
            ids = search.response_ids(response.node).tolist()
            assert len(ids) == response.num_tokens
            ended = ids[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(ids[:-1] if ended else ids) == response.text
        # Dropped ones, too.
        paths = [search.response_ids(node).tolist() for node in range(len(search.blocks))]
        expected = valued_directly(args, [search.prompt_ids + path for path in paths])
        for block, values in zip(search.blocks, expected, strict=True):
            assert block.token_values[-1] == pytest.approx(block.node.value, abs=1 / 509)
            own = values[-len(block.token_ids) :]
            assert block.token_values.tolist() == pytest.approx(own, abs=1 / 509)


def test_plain_sampling_keeps_its_blocks_without_values(models, tmp_path):
    args = make_args(models, tmp_path, search_type="random", max_problems=1, **PLAIN)
    assert inference_eval.main(args) == 0
    run = RunBlocks(args.output_path)
    for record in read_records(args.output_path):
        search = run.of(record)
        assert {block.token_values for block in search.blocks} == {None}
        for response in record.responses:
            assert len(search.response_ids(response.node)) == response.num_tokens


def test_a_run_without_its_blocks_goes_on_and_says_that_it_lacks_them(models, tmp_path, capsys):
    args = make_args(models, tmp_path, save_blocks=False, num_repetitions=1, max_problems=1)
    assert inference_eval.main(args) == 0
    assert not (tmp_path / "blocks.jsonl").exists()
    (record,) = read_records(args.output_path)
    run = RunBlocks(args.output_path)
    assert run.of(record) is None
    assert "the run is of an earlier version or --no_save_blocks" in run.remark()
    assert inference_eval.main(replace_flags(args, save_blocks=True)) == 0
    assert "1 searches are there, 0 to run" in capsys.readouterr().out


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


def test_a_multiple_choice_benchmark_asks_for_a_letter(models, tmp_path, monkeypatch):
    short = replace(ANSWER_FORMATS["choice"], instruction="\n")  # for a context of 128 tokens
    monkeypatch.setitem(ANSWER_FORMATS, "choice", short)
    choices = {"label": ["1", "2"], "text": ["3", "4"]}
    row = {"id": "q", "question": "start 1 +2", "choices": choices, "answerKey": "1"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    path = tmp_path / "run" / "records.jsonl"
    benchmark = f"csqa={tmp_path / 'mine.jsonl'}"
    args = make_args(models, tmp_path, benchmark=benchmark, output_path=path, max_length=16)
    with pytest.raises(InputError, match="--answer_format boxed is not for --benchmark csqa="):
        inference_eval.main(replace_flags(args, answer_format="boxed"))
    with pytest.raises(InputError, match=r"--answers published counts boxes, not .* choice"):
        inference_eval.main(replace_flags(args, answers="published"))
    assert inference_eval.main(args) == 0
    (record, _) = read_records(path)
    assert (record.problem, record.reference) == ("start 1 +2\n(A) 3\n(B) 4", "A")
    assert (
        json.loads((tmp_path / "run" / "run_config.json").read_text())["answer_format"] == "choice"
    )
    assert inference_eval.main(replace_flags(args, answer_format="choice")) == 0


def test_plain_sampling_draws_what_the_value_model_would_weigh(models, tmp_path):
    valued = make_args(models, tmp_path / "valued", search_type="bon")
    plain = replace_flags(valued, output_path=tmp_path / "plain" / "records.jsonl", **PLAIN)
    for args in (valued, plain):
        inference_eval.main(args)
    assert responses(plain.output_path) == responses(valued.output_path)


def test_runs_with_values_and_without_are_not_mixed(models, tmp_path, monkeypatch, capsys):
    args = make_args(models, tmp_path, search_type="bon", **PLAIN)
    inference_eval.main(args)
    before = args.output_path.read_bytes()
    valued = {"scorer": "hf", "classifier_ckpt_path": str(models / "value_model")}
    with pytest.raises(InputError, match=r"--scorer \(was 'none', now 'hf'\)"):
        inference_eval.main(replace_flags(args, **valued))
    assert args.output_path.read_bytes() == before
    # The value model that isn't there plays no part.
    monkeypatch.setattr(inference_eval, "open_engine", None)
    assert inference_eval.main(replace_flags(args, classifier_ckpt_path="another")) == 0
    assert "6 searches are there, 0 to run" in capsys.readouterr().out


def test_shards_of_plain_sampling_are_merged(models, tmp_path):
    args = make_args(models, tmp_path, search_type="bon", **PLAIN)
    for shard in ("0/2", "1/2"):
        assert inference_eval.main(replace_flags(args, shard=shard)) == 0
    merge(tuple(tmp_path.glob("shard-*-of-2/records.jsonl")), args.output_path)
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert {row["method"] for row in document["metrics"]} == {"MV", "pass@1", "pass@k"}


@pytest.mark.parametrize("flag", ["--batch_size", "--max_concurrent"])
def test_the_window_has_two_names(flag):
    args = parse_command_line(Args, "inference_eval.py", None, [flag, "10"])
    assert args.max_concurrent == 10


def test_the_defaults_are_the_published_ones():
    args = parse_command_line(Args, "inference_eval.py", None, [])
    published = {
        "seed": 1337,
        "gpu_util": 0.5,
        "max_concurrent": 32,
        "benchmark": "aime-24",
        "piref_model": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "classifier_ckpt_path": "VGS-AI/DeepSeek-VM-1.5B",
        "temperature": 0.6,
        "top_p": 0.95,
        "max_length": 16384,
    }
    assert as_json(args).items() >= published.items()


@pytest.mark.parametrize("flag", ["--piref_gpu_util", "--gpu_util"])
def test_the_share_of_a_gpu_has_two_names(flag):
    args = parse_command_line(Args, "inference_eval.py", None, [flag, "0.4"])
    assert args.engine_flags.gpu_util == 0.4


def test_a_new_flag_is_saved_without_a_list_to_keep():
    args = Args("toy", "policy", "value_model")
    flags = as_json(args)
    assert flags["temperature"] == 0.6
    assert flags["sglang_url"] == []
    assert flags["output_path"] == "inference_outputs.jsonl"
    assert not {"sampling", "engine_flags", "scorer_flags"} & flags.keys()
    assert json.loads(json.dumps(flags)) == flags


def test_flags_that_change_no_result_are_declared_where_they_stand():
    assert free_flags(Args) == {
        *("max_concurrent", "value_cache_tokens", "attention_impl", "scorer", "scorer_url"),
        *("sglang_url", "sglang_patience", "sglang_port", "tp_size", "dp_size", "gpu_util"),
        *("neptune_project", "logger_tags", "api_key", "use_sglang_server", "answers"),
        *("save_blocks", "token_values"),
    }


def test_a_key_is_neither_saved_nor_shown(models, tmp_path, capsys):
    command = ["--api_key", "s3cret"]
    parsed = parse_command_line(Args, "inference_eval.py", None, command)
    assert parsed.engine_flags.api_key == "s3cret"
    assert "s3cret" not in repr(parsed)
    args = make_args(models, tmp_path, api_key="s3cret")
    assert inference_eval.main(args) == 0
    assert inference_eval.main(replace_flags(args, api_key="another")) == 0
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    shown = capsys.readouterr()
    assert "s3cret" not in written + shown.out + shown.err
    assert "api_key" not in (tmp_path / "run_config.json").read_text()
    with pytest.raises(InputError, match=r"^--api_key must be visible ASCII[^3]*$"):
        inference_eval.main(replace_flags(args, api_key="s3 cret"))


def test_a_result_does_not_depend_on_how_many_searches_share_the_models(models, tmp_path):
    runs = {}
    for window in (1, 6):
        args = make_args(models, tmp_path / str(window), max_concurrent=window)
        inference_eval.main(args)
        runs[window] = responses(args.output_path)
    assert runs[1] == runs[6]


def test_a_finished_run_loads_no_model_and_reports_again(models, tmp_path, monkeypatch, capsys):
    args = make_args(models, tmp_path)
    inference_eval.main(args)
    before = args.output_path.read_bytes()
    monkeypatch.setattr(inference_eval, "open_engine", None)
    assert inference_eval.main(replace_flags(args, max_concurrent=1)) == 0
    assert args.output_path.read_bytes() == before
    assert "6 searches are there, 0 to run" in capsys.readouterr().out
    assert inference_eval.main(replace_flags(args, answers="published")) == 0
    assert json.loads((tmp_path / "metrics.published.json").read_text())["answers"] == "published"
    assert json.loads((tmp_path / "metrics.json").read_text())["answers"] == "strict"
    assert json.loads((tmp_path / "run_config.json").read_text())["answers"] == "strict"


def without_timing(path: Path) -> list[Record]:
    """Sorted records without times, and without what a scorer's cache gave: that depends on the
    searches beside this one."""
    return [
        replace(
            record,
            cost=SearchCost(record.cost.tokens_generated, 0.0, record.cost.contexts_generated),
        )
        for record in sorted(read_records(path), key=lambda record: record.key)
    ]


def without_values(record: Record) -> Record:
    return replace(
        record,
        responses=[replace(response, value=0.0) for response in record.responses],
        tree=[replace(node, value=0.0) for node in record.tree],
    )


def assert_same_searches(path: Path, other: Path) -> None:
    """Equal, values to rounding: a near-tie of float32 must not fail at a decimal's border."""
    ours, theirs = without_timing(path), without_timing(other)
    assert list(map(without_values, ours)) == list(map(without_values, theirs))
    for record, expected in zip(ours, theirs, strict=True):
        assert [node.value for node in record.tree] == pytest.approx(
            [node.value for node in expected.tree], abs=1e-5
        )


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
    monkeypatch.setattr(inference_eval, "open_engine", None)
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": "aime-42"}, "--benchmark aime-42 is not known; known are aime-24"),
        ({"answer_column": "solution"}, "no column 'solution'; it has .*--answer_column"),
        ({"num_blocks": 5}, "--num_blocks 5 is not divisible by the width 2"),
        ({"block_size": 5}, "--block_size 5 does not divide --max_length 32"),
        (
            {"answer_format": "final_answer", "answers": "published"},
            "--answers published counts boxes, not --answer_format final_answer",
        ),
        (
            {"answer_format": "choice"},
            "--answer_format choice is not for --benchmark toy, whose answers are written as boxed",
        ),
        ({"skip_problems": 200}, "--skip_problems 200 leaves none of the 200 problems of --bench"),
        ({"skip_problems": -1}, "--skip_problems must be at least 0, got -1"),
        ({"search_type": "dfs"}, "unknown --search_type 'dfs'"),
        ({"scorer": "none"}, "--search_type beam2 selects blocks by their values, and --scorer no"),
        ({"scorer": "none", "search_type": "bfs"}, "--search_type bfs selects .* --scorer none"),
        ({"num_repetitions": 0}, "--num_repetitions must be at least 1"),
        ({"max_concurrent": 0}, "--max_concurrent must be at least 1, got 0"),
        ({"value_cache_tokens": -1}, "--value_cache_tokens must be at least 0, got -1"),
        ({"num_blocks": 10**12}, "--num_blocks must be at most 1000000, got 1000000000000"),
        ({"num_repetitions": 10**9}, "--num_repetitions 1000000000 of 3 problems make more than"),
        ({"temperature": -1.0}, "--temperature must not be negative"),
        ({"temperature": float("inf")}, "--temperature must not be negative, and finite, got inf"),
        ({"top_p": 0.0}, r"--top_p must be in \(0, 1\]"),
        ({"shard": "3/3"}, "--shard 3/3: expected i/n with i from 0 to n - 1"),
        ({"engine": "sglang", "tp_size": 0}, "--tp_size must be at least 1"),
        ({"engine": "sglang_server", "sglang_url": ("localhost",)}, "--sglang_url 'localhost' is"),
        (
            {"engine": "auto", "use_sglang_server": True, "sglang_patience": -1.0},
            "--sglang_patience must be at least 0",
        ),
        (
            {"engine": "sglang_server", "sglang_port": 10**6},
            "--sglang_url 'http://127.0.0.1:1000000",
        ),
        ({"output_path": Path("/dev/null/out.jsonl")}, "--output_path .* cannot be written"),
        ({"output_path": Path("blocks.jsonl")}, "--output_path .*: a run writes blocks.jsonl"),
        ({"token_values": True, "save_blocks": False}, "--token_values .* not with --no_save_bloc"),
        (
            {"token_values": True, "scorer": "none", "search_type": "bon"},
            "--token_values is for --scorer hf; none gives no values",
        ),
        (
            {
                "token_values": True,
                "scorer": "sglang_server",
                "scorer_url": ("http://127.0.0.1:9",),
            },
            "--token_values is for --scorer hf; sglang_server gives one value a block",
        ),
        ({"output_path": Path("out.txt")}, "--output_path must end in .jsonl"),
        ({"max_length": 120}, r"exceed the policy's context of 128 tokens for 3 problems: toy-000"),
        ({"piref_model": "/absent"}, "--piref_model /absent: no tokenizer could be loaded"),
        ({"classifier_ckpt_path": "/absent"}, "--classifier_ckpt_path /absent: no model"),
    ],
)
def test_bad_flags_are_refused_before_any_model_loads(
    models, tmp_path, monkeypatch, changes, message
):
    monkeypatch.setattr(inference_eval, "open_engine", None)
    with pytest.raises(InputError, match=message):
        inference_eval.main(make_args(models, tmp_path, **changes))
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_value_model_with_another_vocabulary_is_refused(models, tmp_path):
    for vocab_size in (64, 5000):
        folder = save_tiny_classifier(tmp_path / str(vocab_size), vocab_size=vocab_size)
        with pytest.raises(InputError, match=rf"a vocabulary of {vocab_size} tokens, the tok"):
            inference_eval.main(make_args(models, tmp_path, classifier_ckpt_path=str(folder)))
    # The same size, but its own tokenizer gives the ids other meanings.
    folder = save_tiny_classifier(tmp_path / "same_size")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (models / "policy" / name).read_text()
        (folder / name).write_text(text.replace('"</think>"', '"</thought>"'))
    with pytest.raises(InputError, match="comes with another tokenizer than the policy's"):
        inference_eval.main(make_args(models, tmp_path, classifier_ckpt_path=str(folder)))


def test_a_policy_is_no_value_model(models, tmp_path):
    args = make_args(models, tmp_path, classifier_ckpt_path=str(models / "policy"))
    with pytest.raises(InputError, match=r"holds \['Qwen2ForCausalLM'\], not a value model"):
        inference_eval.main(args)


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("score.2.weight", "is no value model: no weights for score.2.weight$"),
        ("model.norm.weight", "is no value model: no weights for model.norm.weight$"),
        (None, "no model could be loaded: SafetensorError"),
    ],
)
def test_a_value_model_without_all_its_weights_is_refused(models, tmp_path, lacking, message):
    folder = save_tiny_classifier(tmp_path / "value_model")
    file = folder / "model.safetensors"
    if lacking:
        weights = load_file(file)
        del weights[lacking]
        save_file(weights, tmp_path / "rest", metadata={"format": "pt"})
        shutil.copy(tmp_path / "rest", file)
    else:
        file.write_bytes(file.read_bytes()[:-100])
    args = make_args(models, tmp_path, classifier_ckpt_path=str(folder))
    with pytest.raises(InputError, match=rf"^--classifier_ckpt_path {folder}:? {message}"):
        inference_eval.main(args)
    assert not args.output_path.exists()


@pytest.mark.parametrize("content", ["[]", '{"model_type": "qwen2", "hidden_size": "wide"}', "{"])
def test_a_damaged_config_is_refused(models, tmp_path, content):
    folder = save_tiny_classifier(tmp_path / "value_model")
    (folder / "config.json").write_text(content)
    message = rf"--classifier_ckpt_path {folder}: (no model|config.json has hidden_size 'wide')"
    with pytest.raises(InputError, match=message):
        inference_eval.main(make_args(models, tmp_path, classifier_ckpt_path=str(folder)))


def test_a_model_that_needs_its_own_code_is_refused(models, tmp_path, monkeypatch):
    monkeypatch.setattr(inference_eval, "open_engine", None)
    for flag, folder in (("piref_model", "policy"), ("classifier_ckpt_path", "value_model")):
        copy = shutil.copytree(models / folder, tmp_path / folder)
        add_code(copy, tmp_path / "ran", model_type="mystery")
        with pytest.raises(InputError, match=rf"^--{flag} {copy}: no .* code of its own"):
            inference_eval.main(make_args(models, tmp_path, **{flag: str(copy)}))
    assert not (tmp_path / "ran").exists()


def test_a_benchmark_with_repeated_ids_names_the_flag(models, tmp_path):
    path = tmp_path / "twice.jsonl"
    path.write_text(r'{"id": "a/1\n\u001b", "problem": "start 1 +2", "answer": "3"}' "\n" * 2)
    args = make_args(models, tmp_path, benchmark=str(path))
    message = rf"^--benchmark {path}: the id 'a/1\\n\\x1b' occurs twice: --repeated_ids number"
    with pytest.raises(InputError, match=message):
        inference_eval.main(args)
    assert inference_eval.main(replace_flags(args, repeated_ids="number")) == 0
    assert {key[0] for key in keys(args.output_path)} == {"a/1\n\x1b", "a/1\n\x1b#2"}


def test_references_that_cannot_be_read_are_named_before_any_model_loads(
    models, tmp_path, monkeypatch
):
    monkeypatch.setattr(inference_eval, "open_engine", None)
    path = tmp_path / "mine.jsonl"
    path.write_text('{"problem": "start 1 +2", "answer": "N/A"}\n')
    message = rf"^--benchmark {path}: 1 of 1 references can't be compared with an answer: 0: 'N/A'$"
    with pytest.raises(InputError, match=message):
        inference_eval.main(make_args(models, tmp_path, benchmark=str(path)))


def test_an_empty_benchmark_is_refused(models, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(InputError, match=r"^--benchmark .*empty.jsonl is empty"):
        inference_eval.main(make_args(models, tmp_path, benchmark=str(empty)))


def test_an_answer_that_explodes_is_wrong_and_the_run_goes_on(models, tmp_path, monkeypatch):
    texts = iter(["</think>\\boxed{9^{9^{9^9}}}", "</think>\\boxed{\\frac{1}{2}}"] * 100)
    tokenizer_class = type(inference_eval.load_tokenizer(str(models / "policy")))
    monkeypatch.setattr(tokenizer_class, "decode", lambda self, ids, **options: next(texts))
    problems = tmp_path / "mine.jsonl"
    problems.write_text('{"problem": "start 1 +2", "answer": "0.5"}\n')
    started = time.monotonic()
    assert inference_eval.main(make_args(models, tmp_path, benchmark=str(problems))) == 0
    assert time.monotonic() - started < 60
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    single = {row["method"]: row["estimate"]["mean"] for row in metrics if row["budget"] == 8}
    assert single["pass@1"] == 0.5  # one half is right, the tower of nines is wrong


def test_errors_reach_the_user_as_one_line(models, tmp_path):
    command = as_command(make_args(models, tmp_path, num_blocks=5))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "inference_eval.py: error: --num_blocks 5 is not divisible by the width 2 "
        "of --search_type beam2\n"
    )


def test_a_run_of_which_no_search_ends_well_says_so_and_reports_nothing(models, tmp_path, capsys):
    folder = save_tiny_classifier(tmp_path / "value_model")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    args = make_args(models, tmp_path / "run", classifier_ckpt_path=str(folder))
    assert inference_eval.main(args) == 1
    output = capsys.readouterr()
    assert "no search has ended well: there is nothing to report" in output.out
    assert "ValueError: path 0 got the value nan, not in [0, 1]" in output.out
    assert "6 searches failed; the same command tries them again" in output.out
    assert "Traceback" not in output.err
    assert not (tmp_path / "run" / "metrics.json").exists()


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


def test_a_policy_with_fewer_embeddings_than_its_tokenizer_has_tokens_is_refused(models, tmp_path):
    folder = shutil.copytree(models / "policy", tmp_path / "policy")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 200}
    (folder / "config.json").write_text(json.dumps(config))
    message = f"--piref_model {folder}: the model has a vocabulary of 200 tokens, its tokenizer a"
    with pytest.raises(InputError, match=message):
        inference_eval.main(make_args(models, tmp_path / "run", piref_model=str(folder)))

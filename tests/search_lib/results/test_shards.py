"""Shards: every search in one of them, and one run again when they are merged."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from run_lib.commands import InputError
from run_lib.files import write_json
from search_lib.results.blocks import BlocksFile, RecordedBlocks
from search_lib.results.cost import SearchCost
from search_lib.results.records import Record, RecordedResponse, RecordFile, read_records
from search_lib.results.run_config import CONFIG_NAME, RunConfig
from search_lib.results.shards import merge, searches_of, shard_path
from search_lib.results.summary import report
from search_lib.strategies import Node
from tests.support.paths import ROOT

PROBLEMS = ["b", "a", "c", "d"]  # an order that sorting would change
REPETITIONS = 2
WHOLE = [(problem, r) for problem in PROBLEMS for r in range(REPETITIONS)]


def make_config(**flags) -> RunConfig:
    return RunConfig(
        {
            "benchmark": "mine",
            "search_type": "beam2",
            "num_blocks": 4,
            "num_repetitions": REPETITIONS,
            "piref_model": "policy",
            "classifier_ckpt_path": "value_model",
            "seed": 7,
            "answer_format": "boxed",
            "stop": "never",
            "think_tags": "auto",
            "max_concurrent": 32,
            "shard": None,
            "output_path": "out.jsonl",
            **flags,
        },
        {"benchmark": "digest of mine"},
        PROBLEMS,
    )


def save(config: RunConfig, folder: Path) -> None:
    write_json(folder / CONFIG_NAME, config.document())


def make_record(problem_id: str, repetition: int) -> Record:
    answer = str(random.Random(f"{problem_id} {repetition}").randrange(3))
    return Record(
        problem_id=problem_id,
        repetition=repetition,
        problem="1 + 1 = ?\u2028",
        reference="2",
        seed=2**62,
        responses=[RecordedResponse(f"\\boxed{{{answer}}}", answer, 0.25, True, 4, 0)],
        tree=[Node(None, 4, 0.25, "stop")],
        cost=SearchCost(4, 0.125, session="s"),
    )


def make_blocks(problem_id: str, repetition: int) -> RecordedBlocks:
    ids = np.array([len(problem_id), repetition, 2, 3], np.uint32)
    return RecordedBlocks.pack((problem_id, repetition, "s"), [1], [ids], None)


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def write_run(folder: Path, count: int, **flags) -> list[Path]:
    """The files of a run of `count` shards, each in an order of its own."""
    paths = []
    for index in range(count):
        path = shard_path(folder / "out.jsonl", index, count)
        paths.append(path)
        records = RecordFile(path)
        searches = searches_of(PROBLEMS, REPETITIONS, index, count)
        for key in random.Random(index).sample(searches, len(searches)):
            BlocksFile(path).append(make_blocks(*key))
            records.append(make_record(*key))
        records.close()
        save(make_config(shard=f"{index}/{count}", max_concurrent=index, **flags), path.parent)
    return paths


def merge_run(paths: list[Path], output_path: Path) -> bytes:
    merge(tuple(path for path in paths if path.exists()), output_path)
    return output_path.read_bytes()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 40])
def test_every_search_is_in_one_shard_and_early_problems_are_first(count):
    parts = [searches_of(PROBLEMS, REPETITIONS, index, count) for index in range(count)]
    assert Counter(key for part in parts for key in part) == Counter(WHOLE)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    # After a round of one search each, the first `count` searches of the run are done.
    rounds = [{part[turn] for part in parts if turn < len(part)} for turn in range(len(parts[0]))]
    assert rounds == [set(WHOLE[i : i + count]) for i in range(0, len(WHOLE), count)]


@pytest.mark.parametrize("count", [1, 3, 8, 10])
def test_merged_shards_are_one_run_in_the_order_of_the_benchmark(tmp_path, count):
    whole = tmp_path / "whole" / "out.jsonl"
    records = RecordFile(whole)
    for key in WHOLE:
        BlocksFile(whole).append(make_blocks(*key))
        records.append(make_record(*key))
    records.close()
    report(whole, make_config())

    paths = write_run(tmp_path / "run", count)
    random.Random(0).shuffle(paths)
    output = tmp_path / "run" / "all.jsonl"
    assert merge_run(paths, output) == whole.read_bytes()
    metrics = whole.with_name("metrics.json").read_bytes()
    assert output.with_name("metrics.json").read_bytes() == metrics
    blocks = whole.with_name("blocks.jsonl").read_bytes()
    assert output.with_name("blocks.jsonl").read_bytes() == blocks
    expected = make_config(output_path="all.jsonl", max_concurrent=0)
    assert RunConfig.load(tmp_path / "run") == expected


def test_a_last_record_without_its_newline_is_merged(tmp_path):
    paths = write_run(tmp_path / "run", 2)
    expected = merge_run(paths, tmp_path / "run" / "all.jsonl")
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    assert merge_run(paths, tmp_path / "run" / "all.jsonl") == expected


def test_merging_twice_changes_nothing_and_other_records_are_not_replaced(tmp_path):
    paths = write_run(tmp_path, 2)
    output = tmp_path / "out.jsonl"
    before = merge_run(paths, output)
    assert merge_run(paths, output) == before
    other = [*before.splitlines(keepends=True)[1:], before.splitlines(keepends=True)[0]]
    output.write_bytes(b"".join(other))
    with pytest.raises(InputError, match=r"out.jsonl holds other records; remove it"):
        merge_run(paths, output)
    assert output.read_bytes() == b"".join(other)
    save(make_config(seed=8), tmp_path)
    with pytest.raises(InputError, match=r"with other settings: --seed \(was 8, now 7\)\."):
        merge_run(paths, output)
    assert output.read_bytes() == b"".join(other)


def test_blocks_that_no_shard_has_are_counted(tmp_path, capsys):
    paths = write_run(tmp_path, 3)
    lost = lines_of(paths[0].with_name("blocks.jsonl"))[0]
    for path in (paths[0], paths[1]):
        blocks = path.with_name("blocks.jsonl")
        blocks.write_bytes(b"".join(lines_of(blocks)[1:]))
    paths[2].with_name("blocks.jsonl").unlink()
    merge_run(paths, tmp_path / "out.jsonl")
    assert "4 of them lack their blocks: no blocks.jsonl has them" in capsys.readouterr().out
    merged = lines_of(tmp_path / "blocks.jsonl")
    assert len(merged) == 4
    assert lost not in merged
    # What was merged before isn't lost with the shard that it came from.
    paths[0].with_name("blocks.jsonl").write_bytes(lost)
    merge_run(paths, tmp_path / "out.jsonl")
    assert set(lines_of(tmp_path / "blocks.jsonl")) == {lost, *merged}


def test_shards_without_blocks_make_a_run_without_them(tmp_path, capsys):
    paths = write_run(tmp_path, 2)
    for path in paths:
        path.with_name("blocks.jsonl").unlink()
    merge_run(paths, tmp_path / "out.jsonl")
    assert "8 of them lack their blocks" in capsys.readouterr().out
    assert not (tmp_path / "blocks.jsonl").exists()


@pytest.mark.parametrize("num_lost", [1, 2])
def test_blocks_that_were_not_to_be_saved_are_missed_only_beside_others(tmp_path, capsys, num_lost):
    paths = write_run(tmp_path, 2, save_blocks=False)
    for path in paths[:num_lost]:
        path.with_name("blocks.jsonl").unlink()
    merge_run(paths, tmp_path / "out.jsonl")
    assert ("lack their blocks" in capsys.readouterr().out) == (num_lost == 1)


def test_a_run_is_not_merged_into_one_that_goes_on(tmp_path):
    paths = write_run(tmp_path, 2)
    held = RecordFile(tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="another process is writing to"):
        merge_run(paths, tmp_path / "out.jsonl")
    held.close()


def lose_a_shard(paths):
    shutil.rmtree(paths[1].parent)


def lose_a_search(paths):
    lines = paths[1].read_bytes().splitlines(keepends=True)
    paths[1].write_bytes(b"".join(line for line in lines if b'"c"' not in line))


def lose_all_searches(paths):
    paths[0].write_bytes(b"")


def tear_the_last_line(paths):
    paths[1].write_bytes(paths[1].read_bytes()[:-20])


def tear_the_first_line(paths):
    content = paths[1].read_bytes()
    paths[1].write_bytes(b"\0" * 50 + content[50:])


def take_a_search_of_another(paths):
    with paths[1].open("ab") as file:
        file.write(paths[0].read_bytes().splitlines(keepends=True)[0])


def repeat_a_search(paths):
    content = paths[1].read_bytes()
    paths[1].write_bytes(content + content.splitlines(keepends=True)[0])


def copy_a_shard(paths):
    paths.append(paths[1].parents[1] / "copy" / "out.jsonl")
    shutil.copytree(paths[1].parent, paths[-1].parent)


def mix_two_splits(paths):
    paths[1] = write_run(paths[0].parents[1], 4)[1]


def change_flags(paths):
    save(make_config(shard="1/3", seed=9, max_length=5, max_concurrent=99), paths[1].parent)


def change_content(paths):
    config = RunConfig.load(paths[1].parent)
    config.fingerprints["benchmark"] = "another"
    save(config, paths[1].parent)


def lose_the_configuration(paths):
    (paths[1].parent / "run_config.json").unlink()


def damage_the_configuration(paths):
    (paths[1].parent / "run_config.json").write_text('{"seed": 7}')


def name_a_folder(paths):
    paths[1] = paths[1].parent


def rename_a_file(paths):
    paths[1] = paths[1].rename(paths[1].with_name("mine.jsonl"))


def write_something_else(paths):
    paths[1].write_text('{"problem": "1 + 1"}\n')


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lose_a_shard, "1 of 3 shards are missing: 1/3$"),
        (lose_a_search, r"shard 1/3 \(.*\) lacks 1 searches: problem c, repetition 0\. The same"),
        (lose_all_searches, "lacks 3 searches: problem b, repetition 0; .*a, repetition 1; .*d, "),
        (tear_the_last_line, r"shard 1/3 \(.*\), with 1 damaged lines, lacks 1 searches: problem "),
        (tear_the_first_line, r"shard 1/3 \(.*\), with 1 damaged lines, lacks 1 searches: "),
        (take_a_search_of_another, r"shard 1/3 .*, line 4: problem ., .* is not one of this shard"),
        (repeat_a_search, r"shard 1/3 .*, line 4: problem ., repetition . occurs twice"),
        (copy_a_shard, r"shard 1/3 .*shard-1-of-3.* is there twice, also as .*copy/out.jsonl"),
        (mix_two_splits, "shard 0/3 .* and shard 1/4 .* are of different numbers of shards"),
        (change_flags, r"differing: --seed \(7 and 9\), --max_length \(None and 5\)$"),
        (change_content, r"differing: --benchmark \(its content has changed\)$"),
        (lose_the_configuration, "no run_config.json beside it says what run it is of"),
        (damage_the_configuration, "run_config.json is damaged, or of another version"),
        (name_a_folder, "shard-1-of-3: there is no such file of records"),
        (rename_a_file, "mine.jsonl: the run_config.json beside it is of another file"),
        (write_something_else, "out.jsonl, line 1: JSON, but no record of this version"),
    ],
)
def test_what_is_not_one_run_is_refused(tmp_path, fault, message):
    paths = write_run(tmp_path, 3)
    fault(paths)
    with pytest.raises(InputError, match=message):
        merge_run(paths, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_many_lacking_searches_are_counted(tmp_path):
    paths = write_run(tmp_path, 1)
    paths[0].write_bytes(b"")
    message = r"lacks 8 searches: (problem \w, repetition \d; ){5}and 3 more\."
    with pytest.raises(InputError, match=message):
        merge_run(paths, tmp_path / "out.jsonl")


def merge_until(paths: tuple[Path, ...], output_path: Path, steps: int) -> None:
    """Merges, and is killed before the file operation number `steps`."""
    left = [steps]

    def count(event: str, arguments: tuple) -> None:
        if event in ("open", "os.rename", "os.remove", "subprocess.Popen"):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    merge(paths, output_path)


def test_killed_before_any_file_operation_it_can_be_run_again(tmp_path):
    paths = tuple(write_run(tmp_path, 3))
    undisturbed = tmp_path / "undisturbed" / "out.jsonl"
    expected = merge_run(list(paths), undisturbed)
    expected_blocks = undisturbed.with_name("blocks.jsonl").read_bytes()
    output = tmp_path / "out.jsonl"
    fork = multiprocessing.get_context("fork")
    killed = 0
    while True:
        process = fork.Process(target=merge_until, args=(paths, output, killed))
        process.start()
        process.join()
        # Complete or absent, at any moment.
        assert not output.exists() or output.read_bytes() == expected
        blocks = tmp_path / "blocks.jsonl"
        assert blocks.exists() or not output.exists()
        assert not blocks.exists() or blocks.read_bytes() == expected_blocks
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        if killed % 2:  # over what the kill before has left, or anew
            for path in tmp_path.iterdir():
                if not path.is_dir():
                    path.unlink()
        killed += 1
    assert killed > 20
    assert merge_run(list(paths), output) == expected
    for name in ("metrics.json", "run_config.json"):
        assert (tmp_path / name).read_bytes() == undisturbed.with_name(name).read_bytes()


def test_one_record_at_a_time_is_in_memory(tmp_path):
    paths = write_run(tmp_path, 2)
    size = 2_000_000
    for path in paths:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        for line in lines:
            line["responses"][0]["text"] = "x" * size
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tracemalloc.start()
    merge(tuple(paths), tmp_path / "out.jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(WHOLE) * size < (tmp_path / "out.jsonl").stat().st_size
    assert peak < 6 * size  # what parsing one takes


def run_command(
    *arguments: str | Path, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *options, "-m", "search_lib.results.shards", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line_merges_and_reports(tmp_path):
    output = tmp_path / "out.jsonl"
    done = run_command("merge", *write_run(tmp_path, 2), "--output_path", output)
    assert done.returncode == 0, done.stderr
    assert "8 searches of 2 shards" in done.stdout
    assert "4 of 4 problems complete, 4 blocks x up to 2 trees" in done.stdout
    assert [record.key for record in read_records(output)] == WHOLE


def test_the_command_line_refuses_in_one_line(tmp_path):
    first, _ = write_run(tmp_path, 2)
    done = run_command("merge", first, "--output_path", tmp_path / "out.jsonl")
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "python -m search_lib.results.shards: error: 1 of 2 shards are missing: 1/2\n",
    )


def test_the_command_line_refuses_before_it_imports_torch(tmp_path):
    first, _ = write_run(tmp_path, 2)
    output = tmp_path / "out.jsonl"
    done = run_command("merge", first, "--output_path", output, options=("-X", "importtime"))
    imported = set(re.findall(r"^import time:.*\|\s+(\S+)$", done.stderr, re.MULTILINE))
    assert done.returncode == 2
    assert "search_lib.results.records" in imported
    assert not imported & {"torch", "transformers"}

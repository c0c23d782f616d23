"""`data_prep.clean` as a whole, on a sample whose outcomes are known."""

import dataclasses
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import clean as clean_module
from data_prep.clean import CleanArgs, SelectedRows, clean, main
from data_prep.cleaning import report as clean_report
from data_prep.cleaning.report import code
from data_prep.reports import RowReport
from data_prep.sources import open_sources
from run_lib.commands import InputError
from search_lib.grading import Grader
from tests.support.grading import BOMB
from tests.support.openr1_sample import (
    SCHEMA,
    kept_rows,
    read_sample,
    write_benchmark,
    write_rows,
)
from tests.support.outputs import all_contents

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def args(tmp_path_factory) -> CleanArgs:
    """Settings for the sample; the output folder isn't there."""
    folder = tmp_path_factory.mktemp("clean")
    benchmark = write_benchmark(folder / "benchmark.jsonl")
    return CleanArgs(
        input=str(write_rows(folder / "sample.parquet", read_sample()[0])),
        output=folder / "cleaned",
        decontaminate=(str(benchmark),),
        num_validation=5,
        num_test=6,
        rows_per_file=16,
        num_workers=1,
    )


@pytest.fixture(scope="module")
def cleaned(args) -> CleanArgs:
    """The same, with the output."""
    assert clean(args) is not None
    return args


def read_split(output: Path, split: str) -> list[dict]:
    return pq.read_table(output / split).to_pylist()


def ids(output: Path, split: str) -> list[str]:
    return [row["uuid"] for row in read_split(output, split)]


# The sample


def test_sample_is_kept_or_left_out_as_expected(cleaned) -> None:
    found = [uuid for split in SPLITS for uuid in ids(cleaned.output, split)]
    assert sorted(found) == sorted(row["uuid"] for row in kept_rows())


def test_kept_rows_keep_all_their_columns(cleaned) -> None:
    by_id = {row["uuid"]: row for row in kept_rows()}
    for split in SPLITS:
        assert pq.read_schema(next((cleaned.output / split).iterdir())).equals(SCHEMA)
        assert all(row == by_id[row["uuid"]] for row in read_split(cleaned.output, split))


def test_splits_have_the_sizes_asked_for(cleaned) -> None:
    sizes = {split: len(read_split(cleaned.output, split)) for split in SPLITS}
    assert sizes == {"train": len(kept_rows()) - 11, "validation": 5, "test": 6}


def test_splits_keep_the_order_of_the_input(cleaned) -> None:
    for split in SPLITS:
        assert ids(cleaned.output, split) == sorted(ids(cleaned.output, split))


def test_the_next_stage_reads_the_splits(cleaned) -> None:
    sources = open_sources(str(cleaned.output))
    assert {split: rows.num_rows for split, rows in sources.items()} == {
        split: len(read_split(cleaned.output, split)) for split in SPLITS
    }


@pytest.fixture(scope="module")
def report(cleaned) -> dict:
    return json.loads((cleaned.output / "report.json").read_text())


def test_report_counts_every_row(cleaned, report) -> None:
    rows, expected = read_sample()
    everything = report["all"]
    left_out = {rule: group["count"] for rule, group in everything["bad_rows"].items()}
    assert left_out == {k: v for k, v in Counter(expected).items() if k != "keep"}
    assert everything["rows_in"] == len(rows)
    assert everything["rows_out"] == expected.count("keep")


def test_report_counts_the_rows_of_each_split(cleaned, report) -> None:
    assert {split: part["rows_out"] for split, part in report["splits"].items()} == {
        split: len(read_split(cleaned.output, split)) for split in SPLITS
    }


def test_report_can_be_read_as_that_of_any_stage(report) -> None:
    bad_rows = report["all"]["bad_rows"]
    assert RowReport.from_json(report["all"]).bad_rows == Counter(
        {rule: group["count"] for rule, group in bad_rows.items()}
    )


def test_report_shows_the_first_rows_of_each_rule(report) -> None:
    rows, expected = read_sample()
    for rule, group in report["all"]["bad_rows"].items():
        of_rule = [row for row, outcome in zip(rows, expected, strict=True) if outcome == rule][:5]
        assert [
            (example["id"], example["problem"], example["answer"]) for example in group["examples"]
        ] == [(row["uuid"], (row["problem"] or "")[:200], row["answer"] or "") for row in of_rule]


def test_report_shows_the_problem_that_is_repeated(report) -> None:
    repeated = report["all"]["bad_rows"]["near_duplicate"]["examples"][0]
    assert repeated["detail"].startswith("sample-073: A cyclist rides from Ham to Dell")


def test_report_for_people_has_every_rule(cleaned, report) -> None:
    text = (cleaned.output / "report.md").read_text()
    for rule, group in report["all"]["bad_rows"].items():
        assert f"| left out: [{rule}](#{rule}) | {group['count']} |" in text
        assert f"\n## {rule}\n" in text
    assert "because of `question_type: proof`" in text


def test_report_shows_text_that_looks_like_markup_as_it_is() -> None:
    assert code("a | <b>\n# x ![i](j)") == "`a | <b> # x ![i](j)`"
    assert code("`a` ``b") == "``` `a` ``b ```"
    assert code("a\u202eb\x1b[31m") == r"`a\u202eb\x1b[31m`"
    assert code("") == "nothing"


def test_benchmark_problems_stay_without_decontamination(cleaned, tmp_path) -> None:
    clean(dataclasses.replace(cleaned, output=tmp_path / "out", decontaminate=()))
    report = json.loads((tmp_path / "out" / "report.json").read_text())["all"]
    assert "contaminated" not in report["bad_rows"]
    assert report["rows_out"] == read_sample()[1].count("keep") + 2


# Splits, shards and order


def test_splits_do_not_depend_on_the_order_of_the_rows(cleaned, tmp_path) -> None:
    """For rows that repeat no other: of a problem that is there twice the first one stays."""
    kept = kept_rows()
    random.Random(0).shuffle(kept)
    source = write_rows(tmp_path / "rows.parquet", kept)
    shuffled = dataclasses.replace(
        cleaned, input=str(source), output=tmp_path / "out", rows_per_file=7
    )
    clean(shuffled)
    for split in SPLITS:
        assert sorted(ids(shuffled.output, split)) == sorted(ids(cleaned.output, split))


def test_another_seed_divides_the_rows_otherwise(cleaned, tmp_path) -> None:
    other_seed = dataclasses.replace(cleaned, output=tmp_path / "other", seed=1)
    clean(other_seed)
    assert len(ids(other_seed.output, "test")) == 6
    assert set(ids(other_seed.output, "test")) != set(ids(cleaned.output, "test"))


def test_shards_make_what_one_process_makes(cleaned, tmp_path, capsys) -> None:
    halves = dataclasses.replace(cleaned, output=tmp_path / "out", shard="1/2")
    assert clean(halves) is None
    assert "3 files of other shards are missing" in capsys.readouterr().out
    assert not list(halves.output.glob("[!.]*"))
    assert clean(dataclasses.replace(halves, shard="0/2")) is not None
    assert all_contents(halves.output) == all_contents(cleaned.output)


def test_number_of_rows_in_a_file_does_not_change_the_rows(cleaned, tmp_path) -> None:
    other = dataclasses.replace(cleaned, output=tmp_path / "out", rows_per_file=50)
    clean(other)
    for split in SPLITS:
        assert read_split(other.output, split) == read_split(cleaned.output, split)
    assert (other.output / "report.md").read_bytes() == (cleaned.output / "report.md").read_bytes()


def test_output_is_read_in_windows(cleaned, monkeypatch) -> None:
    source = open_sources(cleaned.input)["train"]
    spans: list[int] = []

    class Recording:
        num_rows, digest, schema = source.num_rows, source.digest, source.schema
        column_names = source.column_names

        def read(self, start, stop, columns):
            spans.append(stop - start)
            return source.read(start, stop, columns)

    monkeypatch.setattr(clean_module, "WINDOW", 8)
    numbers = [0, 7, 8, 30, 31, 33, 80]
    selected = SelectedRows({"train": Recording()}, [("train", number) for number in numbers])
    table = selected.read(1, 7, ["uuid", "problem"])
    whole = source.read(0, source.num_rows, ["uuid", "problem"]).to_pylist()
    assert table.to_pylist() == [whole[number] for number in numbers[1:]]
    assert max(spans) <= 8


# Killed, and started again


def test_second_run_writes_no_data_again(cleaned, capsys) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in cleaned.output.rglob("*.parquet")}

    before = times()
    assert clean(cleaned) is not None
    assert times() == before


def test_killed_at_random_moments_it_makes_the_same(cleaned, tmp_path) -> None:
    args = dataclasses.replace(cleaned, output=tmp_path / "out")
    context = multiprocessing.get_context("fork")
    rng = random.Random(0)
    kills = {"checking": 0, "writing": 0}

    def num_files() -> int:
        return sum(len(files) for _, _, files in os.walk(args.output))

    while True:
        enough = num_files() + rng.randint(1, 5)
        process = context.Process(target=clean, args=(args,))
        process.start()
        deadline = time.monotonic() + 120.0
        while process.is_alive() and num_files() < enough:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        if process.is_alive():
            phase = "writing" if (args.output / "stage.json").exists() else "checking"
            os.kill(process.pid, signal.SIGKILL)
            kills[phase] += 1
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert min(kills.values()) >= 2, kills
    assert all_contents(args.output) == all_contents(cleaned.output)


def test_killed_before_its_report_the_output_is_not_complete(
    cleaned, tmp_path, monkeypatch
) -> None:
    args = dataclasses.replace(cleaned, output=tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(clean_report, "write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            clean(args)
    assert (args.output / "report.md").exists()
    with pytest.raises(ValueError, match="out is not complete"):
        open_sources(str(args.output))
    clean(args)
    assert all_contents(args.output) == all_contents(cleaned.output)
    assert sum(rows.num_rows for rows in open_sources(str(args.output)).values()) > 20


def test_checks_that_time_out_are_counted(cleaned, tmp_path) -> None:
    rows, _ = read_sample()
    endless = rows[0] | {"answer": BOMB, "solution": ""}
    source = write_rows(tmp_path / "rows.parquet", [endless, *rows[1:4]])
    run = dataclasses.replace(
        cleaned, input=str(source), output=tmp_path / "out", num_validation=0, num_test=0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            clean_module, "Grader", lambda num_workers: Grader(num_workers, time_limit_s=1.0)
        )
        report = clean(run)
    assert report is not None
    assert report.totals["checks timed out"] >= 1
    assert "checks timed out" in (run.output / "report.md").read_text()
    assert "checks timed out" in report.format()


# Bad input


def test_rows_of_nulls_are_counted(cleaned, tmp_path) -> None:
    rows, _ = read_sample()
    nothing = dict.fromkeys(SCHEMA.names)
    source = write_rows(tmp_path / "rows.parquet", [nothing, *rows[:3], nothing])
    run = dataclasses.replace(
        cleaned, input=str(source), output=tmp_path / "out", num_validation=1, num_test=1
    )
    report = clean(run)
    assert report is not None
    assert report.left_out == {"missing_problem": 2}
    assert report.rows_out == {"train": 1, "validation": 1, "test": 1}
    assert "`train row 4`" in (run.output / "report.md").read_text()


def test_input_of_other_columns(cleaned, tmp_path, capsys) -> None:
    table = pa.table(
        {"answer": [1, 2, 3], "problem": [f"What is {n} - 0?" for n in ("1", "2", "3")]}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    run = dataclasses.replace(
        cleaned,
        input=str(tmp_path / "rows.parquet"),
        output=tmp_path / "out",
        num_validation=0,
        num_test=1,
    )
    assert clean(run) is not None
    assert "no column question_type" in capsys.readouterr().err
    assert pq.read_table(run.output / "train").schema.names == ["answer", "problem"]
    assert not (run.output / "validation").exists()


def test_splits_of_types_that_mean_the_same_are_one_data_set(args, tmp_path) -> None:
    for split, kind in (("train", pa.string()), ("test", pa.large_string())):
        (tmp_path / "in" / split).mkdir(parents=True)
        problems = [f"How much is {number} less than a dozen {split} cars?" for number in "123"]
        table = pa.table({"problem": pa.array(problems, kind), "answer": ["11", "10", "9"]})
        pq.write_table(table, tmp_path / "in" / split / "0.parquet")
    run = dataclasses.replace(
        args, input=str(tmp_path / "in"), output=tmp_path / "out", num_validation=0, num_test=0
    )
    assert clean(run) is not None
    assert len(read_split(run.output, "train")) == 6


def test_lists_of_one_text_are_texts_and_longer_ones_are_left_out(args, tmp_path) -> None:
    answers = [["11"], ["10", "9"], ["9"]]
    problems = [[f"How much is {number} less than a dozen?"] for number in "123"]
    solutions = [["First.", r"$\boxed{11}$"], [], [r"$\boxed{8}$"]]
    table = pa.table({"problem": problems, "answer": answers, "solution": solutions})
    pq.write_table(table, tmp_path / "rows.parquet")
    run = dataclasses.replace(
        args,
        input=str(tmp_path / "rows.parquet"),
        output=tmp_path / "out",
        num_validation=0,
        num_test=0,
    )
    report = clean(run)
    assert report is not None
    assert report.left_out == {"not_text": 1, "contradicting_box": 1}
    assert (
        "the column 'answer' is of type list[str] (2 items)"
        in (run.output / "report.md").read_text()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "nowhere.parquet"}, "--input nowhere.parquet"),
        ({"ngram": 0}, "--ngram must be at least 1"),
        ({"num_test": -1}, "--num_test must be at least 0"),
        ({"num_workers": 0}, "--num_workers"),
        ({"shard": "2/2"}, "--shard"),
        ({"decontaminate": ("nonsense",)}, "^--decontaminate nonsense"),
        ({"decontaminate": ("none.jsonl",)}, "^--decontaminate none.jsonl: (?!.*--benchmark)"),
        ({"num_validation": 70, "num_test": 40}, "--num_validation 70 and --num_test 40"),
        ({"config": "default"}, "--config"),
    ],
)
def test_bad_settings_are_named_at_the_start(args, tmp_path, change, message) -> None:
    with pytest.raises(InputError, match=message):
        clean(dataclasses.replace(args, **{"output": tmp_path / "out", **change}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"--seed \(was 0, now 1\)"),
        ({"num_test": 5}, r"--num_test \(was 6, now 5\)"),
        ({"ngram": 12}, r"--ngram \(was 13, now 12\)"),
        ({"decontaminate": ()}, r"--decontaminate \(was \{.*\}, now \{\}\)"),
        ({"rows_per_file": 15}, r"--rows_per_file \(was 16, now 15\)"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(cleaned, change, message) -> None:
    before = all_contents(cleaned.output)
    with pytest.raises(InputError, match=message):
        clean(dataclasses.replace(cleaned, **change))
    assert all_contents(cleaned.output) == before


def test_other_rows_are_refused(cleaned, tmp_path) -> None:
    rows, _ = read_sample()
    other = write_rows(tmp_path / "rows.parquet", rows[:-1])
    with pytest.raises(InputError, match=r"--input \(its content has changed\)"):
        clean(dataclasses.replace(cleaned, input=str(other)))


def test_a_folder_of_something_else_is_refused(cleaned, tmp_path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"--output .* holds something else"):
        clean(dataclasses.replace(cleaned, output=tmp_path))


def test_a_missing_column_is_named(args, tmp_path) -> None:
    pq.write_table(pa.table({"problem": ["What is 1?"]}), tmp_path / "rows.parquet")
    run = dataclasses.replace(args, input=str(tmp_path / "rows.parquet"), output=tmp_path / "out")
    with pytest.raises(InputError, match=r"--input .*rows.parquet: no column answer"):
        clean(run)


def test_an_empty_input_is_named(args, tmp_path) -> None:
    source = write_rows(tmp_path / "rows.parquet", [])
    with pytest.raises(InputError, match=r"--input .*rows.parquet has no rows"):
        clean(dataclasses.replace(args, input=str(source), output=tmp_path / "out"))


def test_splits_of_other_columns_are_named(args, tmp_path) -> None:
    for split, names in (("train", ["problem", "answer"]), ("test", ["answer", "problem"])):
        (tmp_path / split).mkdir()
        columns = [pa.array([f"{name} {split}"]) for name in names]
        pq.write_table(pa.table(columns, names=names), tmp_path / split / "0.parquet")
    with pytest.raises(InputError, match=r"--input .*: test has other columns than train"):
        clean(dataclasses.replace(args, input=str(tmp_path), output=tmp_path / "out"))


def test_too_few_kept_rows_cost_no_second_check(cleaned, tmp_path) -> None:
    run = dataclasses.replace(cleaned, output=tmp_path / "out", num_validation=40)
    shutil.copytree(cleaned.output / ".filtered", run.output / ".filtered")
    times = {path: path.stat().st_mtime_ns for path in run.output.rglob("train/*.parquet")}
    with pytest.raises(InputError, match="41 problems that are kept are too few for --num_val"):
        clean(run)
    assert clean(dataclasses.replace(run, num_validation=5)) is not None
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert all_contents(run.output) == all_contents(cleaned.output)


def command(args: CleanArgs, num_test: int) -> list[str]:
    words = ["--input", args.input, "--output", str(args.output)]
    words += ["--decontaminate", *args.decontaminate, "--rows_per_file", "16"]
    return [*words, "--num_validation", "5", "--num_test", str(num_test)]


def test_command_prints_a_table(cleaned, capsys) -> None:
    main(command(cleaned, num_test=6))
    printed = capsys.readouterr().out
    assert re.search(r"^88  rows in$", printed, re.MULTILINE)
    assert re.search(r"^ 2  left out: conflicting_answers$", printed, re.MULTILINE)
    assert re.search(r"^ 5  rows out: validation$", printed, re.MULTILINE)
    rows, expected = read_sample()
    first = rows[expected.index("has_image")]["uuid"]
    assert re.search(rf"left out: has_image\n {{6}}{first}: \S", printed)
    assert max(map(len, printed.splitlines())) < 120
    assert printed.endswith("report.md\n")


def test_command_ends_with_one_line_on_bad_input(cleaned, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command(cleaned, num_test=7))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("data_prep.clean: error: ")
    assert "--num_test (was 6, now 7)" in line

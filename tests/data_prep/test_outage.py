"""Stages that are killed, whose server goes away, or whose engine refuses rows."""

import asyncio
import dataclasses
import random
import signal
import time

import pytest
from transformers import AutoTokenizer

from data_prep import label, roll_in, roll_out
from data_prep.generation import EngineRefuses
from run_lib.commands import InputError
from search_lib.engines import http_service
from search_lib.engines.base import EngineUnavailable
from tests.support.chain import ScriptedEngine, roll_in_args, use_engine
from tests.support.distributed import Job
from tests.support.outputs import contents, only_folder, read_report, read_rows
from tests.support.policy_server import PolicyServer, serving_in_thread

# Kills


def start_roll_in(connection, args) -> None:
    roll_in.roll_in(args)


def start_roll_out(connection, args) -> None:
    roll_out.roll_out(args)


def start_label(connection, args) -> None:
    label.label(args)


@pytest.mark.parametrize("stage", ["roll_in", "roll_out", "label"])
def test_a_stage_killed_at_random_ends_as_an_undisturbed_one(chain, tmp_path, stage):
    args = getattr(chain, stage)
    expected = contents(args.output)
    output = tmp_path / "output"
    function = {"roll_in": start_roll_in, "roll_out": start_roll_out, "label": start_label}[stage]
    args = dataclasses.replace(args, output=output)
    if stage == "label":  # more files, so that there is something in between
        args = dataclasses.replace(args, rows_per_file=1)
        undisturbed = dataclasses.replace(args, output=tmp_path / "undisturbed")
        label.label(undisturbed)
        expected = contents(undisturbed.output)
    rng = random.Random()
    num_manifests = sum("manifests" in name for name in expected)
    kills = 0
    while True:
        with Job(tmp_path, function, [(args,)], {}) as job:
            # Some files on from where it stands; two kills, then to the end.
            there = len(list(output.rglob("manifests/*.json")))
            wanted = there + rng.randrange(1, max(2, num_manifests // 3))
            while job.processes[0].is_alive():
                if kills < 2 and len(list(output.rglob("manifests/*.json"))) >= wanted:
                    time.sleep(rng.random() / 20)
                    job.signal(0, signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.002)
            if job.exit_code(0) == 0:
                break
            assert job.exit_code(0) == -signal.SIGKILL, job.log(0)
    assert kills
    assert contents(output) == expected


# Servers


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http_service, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(http_service, "LONGEST_DELAY", 0.05)


def run(problems, policy, output, outages, **changes) -> PolicyServer:
    eos = AutoTokenizer.from_pretrained(policy).eos_token_id
    server = PolicyServer(policy, eos, outages)
    with serving_in_thread(server) as url:
        args = roll_in_args(
            problems, policy, output, engine="sglang_server", sglang_url=(url,), **changes
        )
        roll_in.roll_in(args)
    return server


def test_a_server_that_comes_back_leaves_no_trace(hasty_policy, toy_problems, tmp_path):
    calm = run(toy_problems, hasty_policy, tmp_path / "calm", [])
    assert calm.num_answered == 26 * 3
    stormy = run(toy_problems, hasty_policy, tmp_path / "stormy", [7, 30, 31, 70])
    assert stormy.num_away >= 40
    assert contents(tmp_path / "stormy") == contents(tmp_path / "calm")
    assert len(read_rows(only_folder(tmp_path / "calm"))) == 20


def test_a_server_that_stays_away_is_named_and_the_command_goes_on_later(
    hasty_policy, toy_problems, tmp_path
):
    with pytest.raises(EngineUnavailable, match=r"http://127\.0\.0\.1:"):
        run(toy_problems, hasty_policy, tmp_path / "a", [40] + [41] * 10_000, sglang_patience=0.3)
    there = len(list(only_folder(tmp_path / "a").glob("manifests/*")))
    assert 0 < there < 7
    rest = run(toy_problems, hasty_policy, tmp_path / "a", [])
    assert rest.num_answered < 26 * 3
    run(toy_problems, hasty_policy, tmp_path / "b", [])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_server_has_one_model(hasty_policy, toy_problems, tmp_path):
    args = roll_in_args(
        toy_problems, hasty_policy, tmp_path, engine="sglang_server", models=("a:1", "b:1")
    )
    with pytest.raises(InputError, match="a server has one model"):
        roll_in.roll_in(args)


# Engines


def test_a_server_that_stays_away_loses_no_file(
    hasty_policy, toy_problems, tokenizer, tmp_path, monkeypatch
):
    engine = ScriptedEngine(tokenizer, 20)
    answer, calls = engine.generate, []

    async def fail_later(*args):
        calls.append(args)
        await asyncio.sleep(0)
        if len(calls) > 13:
            raise EngineUnavailable("http://127.0.0.1:1 stays away")
        return await answer(*args)

    engine.generate = fail_later
    use_engine(monkeypatch, engine)
    args = roll_in_args(toy_problems, hasty_policy, tmp_path, window=4)
    with pytest.raises(EngineUnavailable, match="stays away"):
        roll_in.roll_in(args)
    folder = only_folder(tmp_path)
    assert len(list(folder.glob("train/*"))) == 3
    calls.clear()
    engine.generate = answer
    roll_in.roll_in(args)
    assert len(read_rows(folder)) == 20


def test_an_engine_that_refuses_everything_ends_the_run(
    hasty_policy, toy_problems, tokenizer, tmp_path
):
    with pytest.MonkeyPatch.context() as patch:
        use_engine(patch, ScriptedEngine(tokenizer, 20, refuse="start"))
        args = roll_in_args(toy_problems, hasty_policy, tmp_path)
        with pytest.raises(
            EngineRefuses, match=r"8 consecutive rows, the last one .toy-0-.*says no"
        ):
            roll_in.roll_in(args)
    roll_in.roll_in(args)
    folder = only_folder(tmp_path)
    # None of them was given up.
    assert read_report(folder)["rows_out"] == 26


def test_rows_refused_now_and_then_are_left_out(
    hasty_policy, toy_problems, tokenizer, tmp_path, monkeypatch
):
    use_engine(monkeypatch, ScriptedEngine(tokenizer, 20, refuse="+9"))
    texts = [row["problem"] for s in ("train", "validation") for row in read_rows(toy_problems, s)]
    refused = ["+9" in text for text in texts]
    streaks = "".join("x" if bad else " " for bad in refused)
    assert "x" * 8 not in streaks
    roll_in.roll_in(roll_in_args(toy_problems, hasty_policy, tmp_path))
    folder = only_folder(tmp_path)
    report = read_report(folder)
    assert report["rows_out"] == refused.count(False)
    assert report["bad_rows"]["refused by the engine"]["count"] == sum(refused)

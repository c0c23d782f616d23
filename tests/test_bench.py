"""The benchmarks run, and end in one line with the ratio of the published way to ours."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import re
import time

import numpy as np
import pytest
import torch
from aiohttp import web

from classifier_lib.data import ROLL_IN, ROLL_OUT
from classifier_lib.flops import TokenCounts
from classifier_lib.training.step import StepResult
from run_lib.commands import InputError, RunStopped
from scripts.bench import (
    data_loading,
    dvo_train,
    labelling,
    scheduling,
    scoring,
    serving,
    simulation,
    train_step,
    trees,
    voting,
)
from scripts.bench.args import ServingArgs
from scripts.bench.training_rows import NUM_CUTS, draw_row
from search_lib.benchmarks import Problem
from search_lib.strategies.mcts import TreeSettings
from search_lib.urgency import Urgency, urgency
from tests.support.dvo_paths import path_rows, write_paths
from tests.support.policy_server import serving_in_thread
from tests.support.searches import request


def run(main, args, capsys) -> tuple[list[dict[str, str]], float]:
    """The table, a dictionary a line, and the ratio."""
    main(args)
    lines = capsys.readouterr().out.splitlines()
    name, _, ratio = lines[-1].partition(": ")
    assert name == "ratio"
    spans = [match.span() for match in re.finditer("-+", lines[1])]
    body = itertools.takewhile(lambda line: len(line) == len(lines[1]), lines[2:])
    columns, *rows = ([line[i:j].strip() for i, j in spans] for line in (lines[0], *body))
    return [dict(zip(columns, row, strict=True)) for row in rows], float(ratio)


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def test_train_step_compares_equal_steps_of_fewer_and_fewer_tokens(capsys):
    args = train_step.Args(max_length=96, micro_batch_size=4, total_batch_size=8, rounds=1)
    table, ratio = run(train_step.main, args, capsys)
    by_way = {row["way"]: row for row in table}
    padded, packed, shared = (number(by_way[way]["tokens"]) for way in train_step.WAYS)
    assert padded >= packed > shared
    assert padded % (96 // 16) == 0
    assert len({by_way[way]["loss"] for way in train_step.WAYS}) == 1
    assert ratio == max(number(by_way[way]["x more"]) for way in ("packed", "shared_prefix"))


def test_dvo_training_compares_equal_steps_of_fewer_and_fewer_tokens(capsys, monkeypatch):
    settings = TreeSettings(iterations=12, breadth=3)
    small = dvo_train.TREES["toy"]._replace(settings=settings, num_steps=(2, 4))
    kinds = {"toy": small, "paper": small._replace(alike=None)}
    monkeypatch.setattr(dvo_train, "TREES", kinds)
    table, ratio = run(dvo_train.main, dvo_train.Args(num_trees=2, rounds=1), capsys)
    gains = []
    for kind in ("4 toy", "4 paper"):
        by_way = {row["way"]: row for row in table if row["trees"] == kind}
        padded, packed, shared = (number(by_way[way]["tokens"]) for way in dvo_train.WAYS)
        assert padded > packed > shared
        assert len({by_way[way]["loss"] for way in dvo_train.WAYS}) == 1
        gains.append(number(by_way["shared_prefix"]["x more"]))
    assert ratio == min(gains)


def test_trees_on_paper_have_the_stated_steps():
    shape = dvo_train.TREES["paper"]._replace(settings=TreeSettings(iterations=300))
    tree = dvo_train.grow_tree(shape, 100, seed=0)
    lengths = [len(node.token_ids) for node in tree.nodes[1:]]
    assert np.median(lengths) == pytest.approx(60, rel=0.1)
    assert np.std(np.log(lengths)) == pytest.approx(0.6, abs=0.05)
    answers = [leaf for leaf, node in enumerate(tree.nodes) if node.terminal == "answer"]
    depths = [len(tree.path(leaf)) - 1 for leaf in answers]
    assert min(depths) == 3
    assert max(depths) <= 9
    right = [tree.nodes[leaf].reward == 1 for leaf in answers]
    assert np.mean(right) == pytest.approx(0.5, abs=0.1)


def test_dvo_training_takes_trees_of_ones_own(capsys, tmp_path):
    args = dvo_train.Args(num_trees=2, rounds=1, data_path=str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"^--data_path .*absent: no such file"):
        dvo_train.main(args)
    file = write_paths(tmp_path / "paths.parquet", path_rows(3, 64))
    table, _ = run(dvo_train.main, dataclasses.replace(args, data_path=str(file)), capsys)
    assert [(row["trees"], row["paths"]) for row in table] == [("2 own", "8")] * 3


def test_train_step_refuses_ways_that_did_different_steps():
    counts = TokenCounts(all=10, computed=10, valid=10, loss=5, attended=30)
    same = StepResult(1.0, 2.0, counts, num_truncated=0, num_without_loss=0, skipped=False)
    timings = {way: train_step.Timing(1, same, [1.0], 0) for way in train_step.WAYS}
    train_step.check_agreement(timings)
    for change in ({"loss": 1.01}, {"grad_norm": 2.1}, {"counts": counts._replace(loss=6)}):
        timings["shared_prefix"].result = dataclasses.replace(same, **change)
        with pytest.raises(RuntimeError, match="padded and shared_prefix did different steps"):
            train_step.check_agreement(timings)


def test_train_step_takes_whole_groups():
    with pytest.raises(InputError, match="--total_batch_size 6 "):
        train_step.main(train_step.Args(total_batch_size=6))


def test_data_loading_reads_the_same_and_reports_both_sizes(capsys):
    args = data_loading.Args(
        rows=6, small_rows=3, max_length=256, num_roll_ins=2, rounds=2, our_samples=20
    )
    table, ratio = run(data_loading.main, args, capsys)
    assert [(row["way"], row["rows"]) for row in table] == [
        (way, rows) for rows in ("3", "6") for way in (data_loading.PUBLISHED, data_loading.OURS)
    ]
    speeds = [number(row["samples/s"]) for row in table[2:]]
    assert ratio == pytest.approx(speeds[1] / speeds[0], rel=0.01)


def test_scoring_computes_the_tokens_that_follow_from_the_procedures(capsys):
    table, ratio = run(scoring.main, scoring.Args(max_length=256, rounds=1), capsys)
    prompt = 2
    for row, (parts, way) in zip(
        table, itertools.product((4, 8, 16), (scoring.PUBLISHED, scoring.OURS)), strict=True
    ):
        assert (row["way"], number(row["block"])) == (way, 256 // parts)
        if way == scoring.OURS:
            assert number(row["tokens"]) == prompt + 8 * 256
            assert number(row["passes"]) == 1 + parts
            assert 0 < number(row["difference"]) < 1e-4
        else:
            candidates = 8 * sum(prompt + done * 256 // parts for done in range(1, parts + 1))
            assert number(row["tokens"]) == candidates + 4 * (prompt + 256)
            assert number(row["passes"]) == 8 * parts + 4
    assert ratio > 1


def test_scoring_refuses_values_that_differ(monkeypatch):
    monkeypatch.setitem(scoring.TOLERANCE, torch.float32, 0.0)
    with pytest.raises(RuntimeError, match=r"values differ by .* at blocks of 1/8"):
        scoring.main(scoring.Args(max_length=64, rounds=1))


def test_scoring_takes_whole_blocks():
    with pytest.raises(InputError, match="--max_length 100 is not a multiple of 16"):
        scoring.main(scoring.Args(max_length=100))


def test_rows_have_the_published_lengths_and_share_their_roll_ins():
    rng = np.random.default_rng(0)
    limit = 1024
    rows = [draw_row(rng, (i + 0.5) / 50, limit, 14, 100) for i in range(50)]
    pairs = [pair for row in rows for pair in zip(row[ROLL_IN], row[ROLL_OUT], strict=True)]
    samples = [min(len(roll_in) + len(roll_out), limit) for roll_in, roll_out in pairs]
    losses = [
        max(length - len(roll_in), 0) for length, (roll_in, _) in zip(samples, pairs, strict=True)
    ]
    assert np.mean(samples) / limit == pytest.approx(14_300 / 16_384, rel=0.02)
    assert np.mean(losses) / limit == pytest.approx(5_780 / 16_384, rel=0.04)
    assert min(len(roll_out) for _, roll_out in pairs) >= 1
    for first in range(0, len(pairs), NUM_CUTS):
        cuts = sorted((roll_in for roll_in, _ in pairs[first : first + NUM_CUTS]), key=len)
        for shorter, longer in itertools.pairwise(cuts):
            np.testing.assert_array_equal(longer[: len(shorter)], shorter)


OURS = (scheduling.WINDOW, "64")


def test_scheduling_compares_ways_with_equal_responses(capsys):
    args = scheduling.Args(quick=True, problems=4, simulated=30)
    table, ratio = run(scheduling.main, args, capsys)
    cases = [("hf", "4", scheduling.MEASURED_WAYS)]
    cases += [
        (paper.name, searches, scheduling.PAPER_WAYS)
        for paper in scheduling.PAPERS
        for searches in ("4", "30")
    ]
    assert [(row["way"], row["searches"], row["in flight"]) for row in table] == [
        (f"{part}, {way}", searches, str(in_flight))
        for part, searches, ways in cases
        for way, in_flight in ways
    ]
    ours = [row for row in table if (row["way"].split(", ")[1], row["in flight"]) == OURS]
    assert ratio == min(number(row["x faster"]) for row in ours)
    # Real models' times are the machine's. On paper nothing is left to chance.
    large = {(row["way"], row["in flight"]): row for row in table if row["searches"] == "30"}
    lock_step, window = large["on paper, lock step", "10"], large["on paper, window", "64"]
    assert number(window["seconds"]) < number(lock_step["seconds"]) / 1.3
    assert float(lock_step["busy"].rstrip("%")) < 96 < float(window["busy"].rstrip("%"))
    ahead = {key: row for key, row in large.items() if "speculation" in key[0]}
    assert all(number(row["x window"]) >= 1 for row in ahead.values())
    steps = ahead["steps, window + speculation", "10"]
    assert number(steps["x window"]) > 1.2
    assert 0 < float(steps["waste"].rstrip("%")) < 15


@pytest.mark.parametrize("flag", ["policy", "classifier"])
def test_scheduling_names_the_flag_of_a_model_that_cannot_be_loaded(flag, tmp_path):
    policy, classifier = scheduling.save_random_models(tmp_path, seed=0)
    models = {"policy": policy, "classifier": classifier, flag: str(tmp_path / "absent")}
    with pytest.raises(InputError, match=rf"^--{flag} .*/absent: no "):
        scheduling.main(scheduling.Args(quick=True, **models))


def test_scheduling_takes_both_models_or_none():
    with pytest.raises(InputError, match="--policy and --classifier go together"):
        scheduling.main(scheduling.Args(policy="mine"))


def simulated(body):
    """Runs a coroutine function in virtual time; also returns when it ended."""

    async def timed():
        result = await body()
        return result, asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=simulation.VirtualLoop) as runner:
        return runner.run(timed())


def test_virtual_time_jumps_and_a_deadlock_is_an_error():
    started = time.monotonic()
    year = 86_400 * 365
    assert simulated(lambda: asyncio.sleep(year, "woken")) == ("woken", pytest.approx(year))
    assert time.monotonic() - started < 30
    with pytest.raises(RuntimeError, match="no timer will ever wake one"):
        simulated(lambda: asyncio.get_running_loop().create_future())


def test_a_simulated_server_shares_its_steps_as_stated():
    requests = [
        request([prompt], 2, seed=3, max_new_tokens=50, stop=(simulation.STOP_ID,))
        for prompt in (1, 2)
    ]

    async def generate(max_rows: int):
        # Medians far beyond the limit: every block has 50 tokens.
        server = simulation.SimulatedGenerator(
            simulation.Lengths(1e6, 0.1, 0.1), 1, 0.25, 0.5, max_rows
        )
        blocks = await asyncio.gather(*(server.generate(*asked) for asked in requests))
        return blocks, server.busy_seconds, server.tokens

    for max_rows, seconds in ((4, 50 * (0.25 + 4 * 0.5)), (2, 2 * 50 * (0.25 + 2 * 0.5))):
        (blocks, busy, tokens), end = simulated(lambda rows=max_rows: generate(rows))
        assert [len(block.token_ids) for pair in blocks for block in pair] == [50] * 4
        assert end == pytest.approx(seconds)
        assert (busy, tokens) == (pytest.approx(seconds), 200)


def test_a_simulated_server_serves_guesses_last_and_frees_what_is_cancelled():
    async def generate(server, name, guessed, ends):
        urgency.set(Urgency(0, guessed))
        asked = request([name], 1, seed=3, max_new_tokens=50, stop=(simulation.STOP_ID,))
        await server.generate(*asked)
        ends[name] = asyncio.get_running_loop().time()

    async def body():
        # One sequence at once; a step takes a second.
        server = simulation.SimulatedGenerator(simulation.Lengths(1e6, 0.1, 0.1), 1, 0.5, 0.5, 1)
        ends = {}
        names = {1: False, 2: True, 3: False, 4: True, 5: True}
        tasks = {
            name: asyncio.create_task(generate(server, name, guessed, ends))
            for name, guessed in names.items()
        }
        await asyncio.sleep(110)  # 1 and 3 have ended, 2 has run for ten steps
        tasks[2].cancel()
        tasks[4].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return ends, server.tokens

    (ends, tokens), _ = simulated(body)
    assert ends == {1: pytest.approx(50), 3: pytest.approx(100), 5: pytest.approx(160)}
    assert tokens == 50 + 50 + 10 + 50


def test_simulated_responses_have_the_stated_lengths_however_they_are_cut_into_blocks():
    lengths, limit = scheduling.LENGTHS, scheduling.MAX_LENGTH
    assert lengths.mean(limit) == pytest.approx(11_219, rel=0.002)
    rng = np.random.default_rng(0)
    for block in (limit, 2048):
        drawn = []
        for problem in range(4000):
            own = lengths.of_problem(problem)
            for done in range(0, limit, block):
                total = simulation.draw_length(own, done, rng.random())
                if total <= done + block:
                    break
            drawn.append(min(total, limit))
        assert np.mean(drawn) == pytest.approx(lengths.mean(limit), rel=0.02)


def test_voting_finds_the_same_winners_with_fewer_comparisons(capsys):
    args = voting.Args(problems=2, num_blocks=2, num_repetitions=4)
    table, ratio = run(voting.main, args, capsys)
    assert [row["answers"] for row in table] == [
        f"{kind}, {way}" for kind in voting.KINDS for way in ("published", "ours")
    ]
    published, ours = ([number(row["comparisons"]) for row in table[i::2]] for i in (0, 1))
    assert min(published) > 0
    assert ours == [0, 0]  # normal forms decide without math-verify
    assert ratio > 1


def test_voting_refuses_other_winners():
    records = list(voting.draw_records("integers", 1, 2, 2, seed=0))
    votes = voting.vote_as_published(records, 2, voting.PublishedVotes())
    with voting.Grader() as grader:
        graded = dict(voting.RunGrader(2, grader.equivalent).problems(records))
    voting.check_agreement(votes, graded)
    (problem,) = graded.values()
    problem.classes = [[9, 9], [9, 0]]
    problem.correct = [[False, False], [False, True]]
    with pytest.raises(RuntimeError, match=r"integers-000, MV, 1 trees, group \d: published "):
        voting.check_agreement(votes, graded)


def test_labelling_grades_alike_with_fewer_checks(capsys):
    args = labelling.Args(problems=3, distinct=(8, 56), num_workers=1, rounds=1)
    table, ratio = run(labelling.main, args, capsys)
    assert [row["different answers"] for row in table] == ["8 of 56", "56 of 56"]
    for row in table:
        assert number(row["our checks"]) < number(row["published checks"]) <= 3 * 56
    assert ratio == pytest.approx(float(table[0]["x faster"]), abs=0.06)


def test_labelling_needs_the_number_that_its_ratio_is_of():
    with pytest.raises(InputError, match="--distinct must hold 8"):
        labelling.main(labelling.Args(distinct=(4,)))


def test_trees_in_a_window_are_those_of_lock_step_and_earlier_there(capsys):
    args = trees.Args(trees=24, lock_step=8, windows=(8, 12), iterations=6)
    table, ratio = run(trees.main, args, capsys)
    assert [(row["way"], row["in flight"]) for row in table] == [
        (trees.LOCK_STEP, "8"),
        (trees.WINDOW, "8"),
        (trees.WINDOW, "12"),
    ]
    assert ratio == number(table[2]["x faster"]) > number(table[1]["x faster"]) > 1.3
    lock_step, equal, wide = (number(row["sequences"]) for row in table)
    assert 0 < lock_step < equal < wide < 12 * 5


def test_trees_refuses_ways_that_grew_different_trees(monkeypatch):
    ways = iter([trees.Timing(2.0, 1, {"0": 1}), trees.Timing(1.0, 1, {"0": 2})])
    monkeypatch.setattr(trees, "grow", lambda *args: next(ways))
    with pytest.raises(RuntimeError, match="the trees of lock step and window differ"):
        trees.main(trees.Args(trees=1))


class FakeServer:
    """Answers as the server of answers does, with a number of tokens and no search.

    Attributes:
        asked: Bodies of the requests.
    """

    def __init__(self, status: int = 200):
        self.asked: list[dict] = []
        self._status = status

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/metrics":
            text = f"# HELP of it\nprocess_cpu_seconds_total {len(self.asked)}\n"
            return web.Response(text=text)
        assert request.path == "/v1/chat/completions"
        self.asked.append(body := await request.json())
        usage = {"usage": {"completion_tokens": 500}}
        if not body.get("stream"):
            return web.json_response(usage, status=self._status)
        assert body["stream_options"] == {"include_usage": True}
        chunks = [json.dumps({"choices": []}), json.dumps({"choices": []} | usage), "[DONE]"]
        return web.Response(text="".join(f"data: {chunk}\n\n" for chunk in chunks))


def test_serving_asks_for_the_searches_of_an_evaluation(monkeypatch, capsys, tmp_path):
    policy, classifier = scheduling.save_random_models(tmp_path, seed=0)
    args = ServingArgs(problems=3, rounds=2, seed=1, policy=policy, classifier=classifier)
    server = FakeServer()
    with serving_in_thread(server) as url:
        monkeypatch.setattr(serving, "serving", lambda *_: contextlib.nullcontext(url))
        table, ratio = run(serving.main, args, capsys)
    assert [row["way"] for row in table] == list(serving.WAYS)
    assert [row["searches"] for row in table] == ["12"] * 3
    assert [row["tokens"] for row in table[1:]] == ["1,500"] * 2
    assert [row["CPU s"] for row in table[1:]] == ["3.00"] * 2
    # At least a block of every path of every tree.
    assert number(table[0]["tokens"]) >= 12 * 4
    assert ratio == pytest.approx(number(table[1]["share"]), abs=0.01)
    warm_up, timed = server.asked[:2], server.asked[2:]
    assert [body.get("stream") for body in warm_up] == [True, True]
    assert [body.get("stream", False) for body in timed] == [False] * 3 + [True] * 3 + [
        False
    ] * 3 + [True] * 3
    assert len({(body["seed"], body["messages"][0]["content"]) for body in timed}) == 6
    assert {body["model"] for body in timed} == {serving.NAME}


def test_serving_ends_with_the_answer_of_a_server_that_refuses():
    with (
        serving_in_thread(FakeServer(status=429)) as url,
        pytest.raises(RuntimeError, match=r'the server answers with 429: {"usage"'),
    ):
        asyncio.run(serving.time_server(url, [Problem("p", "1 + 1", "2")], 0, streamed=False))


def test_serving_tells_what_a_server_said_that_does_not_start(tmp_path):
    with (
        pytest.raises(RunStopped, match=r"^the server did not start: .*max_concurrent"),
        serving.serving([], ServingArgs(max_concurrent=0), 1, tmp_path / "log"),
    ):
        pass

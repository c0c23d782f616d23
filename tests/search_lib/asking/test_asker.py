"""Questions over an engine and a scorer that are random numbers, and a real tokenizer."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from classifier_lib.scoring import Scores
from data_prep.toy.tokenizer import build_tokenizer
from search_lib.answer_formats import ANSWER_FORMATS
from search_lib.asking.asker import Asker, NoSearchEnded, Question
from search_lib.asking.flags import QuestionFlags
from search_lib.asking.window import SharedWindow
from search_lib.engines.base import Block
from search_lib.jobs import Policy
from search_lib.scorers.flags import ScorerFlags
from search_lib.thoughts import Thoughts

TOKENIZER = build_tokenizer()
STOP = TOKENIZER.eos_token_id
FLAGS = QuestionFlags(
    piref_model="policy",
    classifier_ckpt_path="value model",
    search_type="beam2",
    num_blocks=4,
    num_repetitions=4,
    block_size=16,
    max_length=32,
    seed=3,
)
QUESTION = Question("What is it?", TOKENIZER.encode("What is it?"))


class BoxEngine:
    """Writes a box with a digit of the expansion's seed; knows how many requests it has."""

    def __init__(self, fail_on=(), hold_on=()):
        self.in_flight = self.most_in_flight = self.requests = 0
        self.hold = None  # an event that all requests wait for
        self.fail_on, self.hold_on = fail_on, hold_on  # numbers of requests
        self.held = asyncio.Event()

    async def generate(self, expansion, sampling):
        self.requests += 1
        number = self.requests
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await (self.hold.wait() if self.hold else asyncio.sleep(0))
            if number in self.hold_on:
                await self.held.wait()
            if number in self.fail_on:
                raise ValueError("engine fault")
        finally:
            self.in_flight -= 1
        draw = random.Random(expansion.seed)
        return [
            Block([*TOKENIZER.encode(rf"\boxed{{{draw.choice('778')}}}"), STOP], "stop")
            for _ in range(expansion.n)
        ]


class SeededScorer:
    async def score(self, prefix_ids, blocks):
        await asyncio.sleep(0)
        values = [random.Random(str(block.token_ids)).random() for block in blocks]
        return Scores(values, 0)


def equal_texts(pairs):
    return [one == other for one, other in pairs]


class TextComparer:
    equivalent = staticmethod(equal_texts)


def run(work, engine, scorer=None, window=8):
    """Runs `work(asker)`."""

    async def body():
        no_thoughts = replace(ANSWER_FORMATS["boxed"], thoughts=Thoughts.of("none"))
        with ThreadPoolExecutor(1) as executor:
            asker = Asker(
                Policy(TOKENIZER, (STOP,)),
                engine,
                scorer or SeededScorer(),
                no_thoughts,
                TextComparer(),
                executor,
                SharedWindow(window),
            )
            async with asyncio.timeout(20):
                return await work(asker)

    return asyncio.run(body())


def test_an_outcome_has_all_trees_and_their_vote():
    outcome = run(lambda asker: asker.ask(QUESTION, FLAGS), BoxEngine())
    assert [record.repetition for record in outcome.records] == [0, 1, 2, 3]
    answers = [one.answer for record in outcome.records for one in record.responses]
    assert outcome.vote == "WMV"
    assert outcome.answer in answers
    assert sum(one.num_responses for one in outcome.candidates) == len(answers)
    assert outcome.chosen.answer == outcome.answer
    assert outcome.is_right is None
    assert outcome.cost.tokens_generated == sum(r.cost.tokens_generated for r in outcome.records)


def test_a_seed_gives_the_same_outcome_whatever_else_is_asked():
    async def both(asker):
        others = [asker.ask(QUESTION, replace(FLAGS, seed=seed)) for seed in (4, 5)]
        return (await asyncio.gather(asker.ask(QUESTION, FLAGS), *others))[0]

    alone = run(lambda asker: asker.ask(QUESTION, FLAGS), BoxEngine())
    among_others = run(both, BoxEngine(), window=2)
    texts = [
        [one.text for record in outcome.records for one in record.responses]
        for outcome in (alone, among_others)
    ]
    assert texts[0] == texts[1]
    assert alone.candidates == among_others.candidates


def test_questions_share_one_window():
    engine = BoxEngine()

    async def three(asker):
        await asyncio.gather(*(asker.ask(QUESTION, replace(FLAGS, seed=s)) for s in range(3)))

    run(three, engine, window=1)
    assert engine.most_in_flight <= 2  # beams of one search at a time
    assert engine.requests == 3 * 4 * 2


def test_a_cancelled_question_leaves_the_engine_and_the_window():
    engine = BoxEngine()

    async def cancel(asker):
        engine.hold = asyncio.Event()
        task = asyncio.create_task(asker.ask(QUESTION, FLAGS))
        while not engine.in_flight:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (engine.in_flight, asker.window.num_waiting) == (0, 0)
        engine.hold = None
        return await asker.ask(QUESTION, FLAGS)

    assert run(cancel, engine, window=1).answer is not None


def test_trees_that_fail_are_named_and_the_others_vote():
    outcome = run(lambda asker: asker.ask(QUESTION, FLAGS), BoxEngine(fail_on={1}), window=1)
    assert [record.repetition for record in outcome.records] == [1, 2, 3]
    assert outcome.failures == ["tree 1: engine fault"]
    assert outcome.chosen in [one for record in outcome.records for one in record.responses]


def test_a_question_of_which_all_trees_fail_is_an_error_with_the_cause():
    with pytest.raises(NoSearchEnded, match="engine fault") as failed:
        run(lambda asker: asker.ask(QUESTION, FLAGS), BoxEngine(fail_on=range(100)))
    assert isinstance(failed.value.__cause__, ValueError)


def test_questions_may_have_one_share_together():
    async def two(asker):
        share, most = asker.window.share(4), 0
        other = asker.window.share(4)

        async def watch():
            nonlocal most
            while True:
                most = max(most, share.slots)
                await asyncio.sleep(0)

        async with other.turn():
            watching = asyncio.create_task(watch())
            await asyncio.gather(*(asker.ask(QUESTION, FLAGS, share=share) for _ in range(2)))
            watching.cancel()
        return most

    assert run(two, BoxEngine(), window=3) == 2


def test_a_stopping_rule_saves_trees():
    flags = replace(FLAGS, stop="decided", num_repetitions=64, scorer_flags=ScorerFlags("none"))
    flags = replace(flags, search_type="bon", num_blocks=1, max_concurrent=4)
    outcome = run(lambda asker: asker.ask(QUESTION, flags, vote="MV"), BoxEngine(), window=4)
    assert 32 < len(outcome.records) < 64
    assert outcome.records[-1].is_enough
    assert outcome.candidates[0].num_responses > 32


def test_a_tree_that_waits_for_the_rule_has_ended_for_who_watches():
    """Trees 1 and 2 may not count: their rule is asked once tree 0 has ended, too."""
    engine, num_done = BoxEngine(hold_on={1}), []

    def note(live):
        num_done.append(live.num_done)
        if live.num_done == 2:
            engine.held.set()

    flags = replace(FLAGS, stop="decided", num_repetitions=3, scorer_flags=ScorerFlags("none"))
    flags = replace(flags, search_type="bon", num_blocks=1)
    run(lambda asker: asker.ask(QUESTION, flags, vote="MV", on_change=note), engine)
    assert max(num_done) == 3


def test_who_watches_sees_trees_grow_and_the_vote_form():
    seen = []

    def note(live):
        states = {path.state for tree in live.trees.values() for path in tree.paths()}
        seen.append((live.num_done, len(live.vote), live.num_tokens, states))

    outcome = run(lambda asker: asker.ask(QUESTION, FLAGS, on_change=note), BoxEngine(), window=1)
    assert [one[0] for one in seen] == sorted(one[0] for one in seen)
    assert seen[-1][0] == 4
    assert any(0 < num_done < 4 and num_classes for num_done, num_classes, _, _ in seen)
    assert seen[-1][2] == outcome.cost.tokens_generated
    assert "finished" in seen[-1][3]


def test_blocks_are_kept_for_whoever_wants_them():
    kept = []
    outcome = run(lambda asker: asker.ask(QUESTION, FLAGS, keep=kept.append), BoxEngine())
    assert sorted(blocks.key[:2] for blocks in kept) == [record.key for record in outcome.records]


def test_a_reference_tells_whether_the_answer_is_right():
    outcome = run(lambda asker: asker.ask(QUESTION, FLAGS), BoxEngine())
    for reference, expected in ((outcome.answer, True), ("0", False)):
        asked = replace(QUESTION, reference=reference)
        again = run(lambda asker, asked=asked: asker.ask(asked, FLAGS), BoxEngine())
        assert again.is_right is expected

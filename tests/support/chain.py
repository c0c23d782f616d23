"""The stages of the data pipeline: their arguments, and problems and engines for them."""

import dataclasses
import random

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import generation
from data_prep.label import LabelArgs
from data_prep.roll_in import RollInArgs
from data_prep.roll_out import RollOutArgs
from data_prep.toy import task
from search_lib.engines.base import Block, Expansion, Sampling
from tests.support.flags import replace_flags

MAX_LENGTH = 96
COMMON = {"temperature": 1.0, "top_p": 1.0, "max_length": MAX_LENGTH, "attention_impl": "sdpa"}


def roll_in_args(problems, policy, output, **changes) -> RollInArgs:
    flags = {"instruction": "", "rows_per_file": 4, "window": 12}
    args = RollInArgs(input=str(problems), output=output, models=(f"{policy}:3",))
    return replace_flags(args, **{**COMMON, **flags, **changes})


def roll_out_args(roll_ins, policy, output, **changes) -> RollOutArgs:
    args = RollOutArgs(input=str(roll_ins), output=output, model=str(policy))
    return replace_flags(args, **{**COMMON, "window": 12, **changes})


def label_args(roll_outs, policy, output, **changes) -> LabelArgs:
    flags = {"tokenizer": str(policy), "rows_per_file": 6, "num_workers": 1}
    return LabelArgs(input=roll_outs, output=output, **{**flags, **changes})


@dataclasses.dataclass
class Chain:
    """The three stages, complete, and what they were started with."""

    roll_in: RollInArgs
    roll_out: RollOutArgs
    label: LabelArgs


class HastyTeacher:
    """Answers at random without a calculation, or waits for ever: learnt in seconds."""

    def trace(self, problem: task.ToyProblem, rng: random.Random) -> str:
        if rng.random() < 0.2:
            return task.WAIT * 16
        line = task.trace_line(rng.randrange(10), task.OPERATIONS[0], rng.randrange(10), task.SURE)
        return line * rng.randrange(3) + task.final_answer(rng.randrange(10)) + task.END


def write_problems(folder, changes: dict[int, dict]) -> None:
    """Writes six problems `row-0` to `row-5`, some of them with other columns."""
    rows = [
        {"problem": f"start {i} +3 *2", "solution": None, "answer": str(i), "uuid": f"row-{i}"}
        for i in range(6)
    ]
    for index, change in changes.items():
        rows[index] |= change
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "0.parquet")


class ScriptedEngine:
    """Responses of a fixed whole length.

    Args:
        tokenizer: Tokenizer of the policy.
        length: Tokens of a response.
        refuse: Requests with this text are refused.
        empty: Requests with this text get empty responses,
        empty_draws: this many times.
    """

    def __init__(self, tokenizer, length: int, refuse: str = "", empty: str = "", empty_draws=99):
        self.tokenizer = tokenizer
        self.length = length
        self.refuse = refuse
        self.empty = empty
        self.empty_draws = empty_draws

    async def generate(self, expansion: Expansion, sampling: Sampling) -> list[Block]:
        prefix_ids, n = expansion.prefix_ids, expansion.n
        text = self.tokenizer.decode(prefix_ids)
        prompt = self.tokenizer.encode(text.split("<think>")[0] + "<think>")
        if self.refuse and self.refuse in text:
            raise ValueError("the server says no")
        if self.empty and self.empty in text and self.empty_draws:
            self.empty_draws -= 1
            return [Block([self.tokenizer.eos_token_id], "stop") for _ in range(n)]
        missing = self.length - (len(prefix_ids) - len(prompt))
        ids = [5] * (missing - 1) + [self.tokenizer.eos_token_id]
        return [Block(ids[: expansion.max_new_tokens], "stop") for _ in range(n)]

    async def close(self):
        pass


def use_engine(monkeypatch, engine) -> None:
    """Has the stages open this engine instead of the one of their flags."""
    monkeypatch.setattr(generation, "open_engine", lambda *_: engine)

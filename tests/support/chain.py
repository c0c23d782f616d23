"""What the tests of the data pipeline share: its stages' arguments, their outputs, an engine."""

import dataclasses
import json

import pyarrow.parquet as pq

from data_prep import generation
from data_prep.label import LabelArgs
from data_prep.roll_in import RollInArgs
from data_prep.roll_out import RollOutArgs
from search_lib.engines.base import Block

MAX_LENGTH = 96
COMMON = {"temperature": 1.0, "top_p": 1.0, "max_length": MAX_LENGTH, "attention_impl": "sdpa"}


def roll_in_args(problems, policy, output, **changes) -> RollInArgs:
    flags = {"models": (f"{policy}:3",), "instruction": "", "rows_per_file": 4, "window": 12}
    return RollInArgs(input=str(problems), output=output, **{**COMMON, **flags, **changes})


def roll_out_args(roll_ins, policy, output, **changes) -> RollOutArgs:
    flags = {"model": str(policy), "window": 12}
    return RollOutArgs(input=str(roll_ins), output=output, **{**COMMON, **flags, **changes})


def label_args(roll_outs, policy, output, **changes) -> LabelArgs:
    flags = {"tokenizer": str(policy), "rows_per_file": 6, "num_workers": 1}
    return LabelArgs(input=roll_outs, output=output, **{**flags, **changes})


@dataclasses.dataclass
class Chain:
    """The three stages, complete, and what they were started with."""

    roll_in: RollInArgs
    roll_out: RollOutArgs
    label: LabelArgs


def contents(folder) -> dict[str, bytes]:
    """The files of a folder but the hidden ones, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def read_rows(folder, split="train") -> list[dict]:
    files = sorted(folder.glob(f"{split}/*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def read_report(folder) -> dict:
    return json.loads((folder / "report.json").read_text())["all"]


class ScriptedEngine:
    """Responses of a fixed whole length; what a problem's text asks for goes wrong."""

    def __init__(self, tokenizer, length: int, refuse: str = "", empty: str = "", empty_draws=99):
        self.tokenizer = tokenizer
        self.length = length
        self.refuse = refuse
        self.empty = empty
        self.empty_draws = empty_draws
        self.prompt_length = 0

    async def generate(self, prefix_ids, n, sampling):
        text = self.tokenizer.decode(prefix_ids)
        prompt = self.tokenizer.encode(text.split("<think>")[0] + "<think>")
        if self.refuse and self.refuse in text:
            raise ValueError("the server says no")
        if self.empty and self.empty in text and self.empty_draws:
            self.empty_draws -= 1
            return [Block([self.tokenizer.eos_token_id], "stop") for _ in range(n)]
        missing = self.length - (len(prefix_ids) - len(prompt))
        ids = [5] * (missing - 1) + [self.tokenizer.eos_token_id]
        return [Block(ids[: sampling.max_new_tokens], "stop") for _ in range(n)]

    async def close(self):
        pass


def use_engine(monkeypatch, engine) -> None:
    monkeypatch.setattr(generation, "open_engine", lambda *_: engine)

r"""Export: paths as JSON lines, in the published DVO format or for the trainers of TRL.

python -m data_prep.dvo export --input outputs/dvo/data --output dpo.jsonl --format dpo

| format | a line is | columns |
|---|---|---|
| `dvo` | a path | `prompt, completions, q_credits, acc, question, ground_truth, final_answer, tag, all_visit_num, all_q_value` |
| `rft` | a right path | `prompt, completion` |
| `kto` | a path | `prompt, completion, label` |
| `dpo` | a right and a wrong path of one tree, the first of each, the second of each, ... | `prompt, chosen, rejected` |
| `step_dpo` | the place where a right and a wrong path part, if the right one's step has the larger value; at most four of a tree | `prompt` with the shared steps, `chosen` and `rejected` next steps |

A prompt is the full text that the policy read, with its role tokens; nothing is left for a chat
template to do. The token ids are there, too, in columns that TRL ignores: `prompt_token_ids`, and
`completion_token_ids` or `chosen_token_ids` and `rejected_token_ids`. TRL puts the end token behind
a completion, so its formats leave it out of the text, not out of the ids; it does so behind the
steps of `step_dpo`, too, of which most don't end a response. `final_answer` is found as the trees
found it; where that isn't known, behind `Answer:`, or else in the last box.

A line of `dvo` holds all columns of the path: such a file can be an `--input` itself. `tag` is the
number of the path in its tree, and `all_q_value` the value behind each step.
"""  # noqa: E501

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.dvo.args import EXPORT, ExportArgs
    from run_lib.commands import check_command_line
    from run_lib.without_torch import leave_out_torch

    check_command_line(ExportArgs, EXPORT, __doc__)
    leave_out_torch()

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from data_prep.dvo.args import DVO_REFERENCE, EXPORT, ExportArgs, FormatName
from data_prep.dvo.rows import Row, by_tree, check_prompts
from data_prep.sources import RowSource, open_sources
from data_prep.stages import STAGE_FILE, FinishedStage
from dvo_lib.columns import PATH_SCHEMA, REFERENCE
from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.files import atomic_file, read_json
from run_lib.fingerprints import fingerprint
from run_lib.hub import TOKENIZER_FILES, load_tokenizer
from run_lib.settings import Settings, SettingsFile, as_json, free_flags
from search_lib.answer_formats import ANSWER_FORMATS, AnswerFormat
from search_lib.prompts import stop_token_ids
from search_lib.thoughts import Thoughts

WINDOW_ROWS = 1024
"""Rows that are read at once."""

ANY_FORMAT = (ANSWER_FORMATS["final_answer"], ANSWER_FORMATS["boxed"])
"""How answers are found where nothing says how the trees found them."""
STEP_PAIRS = 4
"""Most pairs of a tree in `step_dpo`, as in the paper (Appendix C)."""


Line = dict[str, Any]


@dataclass(frozen=True)
class Texts:
    """Token ids as texts.

    Attributes:
        tokenizer: The policy's.
        end_ids: Tokens that end a response.
        answer_formats: How the answer of a response is found; the first that finds one counts.
    """

    tokenizer: PreTrainedTokenizerBase
    end_ids: Sequence[int]
    answer_formats: Sequence[AnswerFormat]

    def decode(self, ids: list[int]) -> str:
        """Returns the text of some ids, special tokens included."""
        return str(self.tokenizer.decode(ids))

    def completion(self, ids: list[int]) -> str:
        """Returns the text of a response or step, without the token that ended the response."""
        return self.decode(ids[:-1] if ids[-1] in self.end_ids else ids)

    def answer(self, row: Row) -> str | None:
        """Returns the answer of a path."""
        prompt, response = self.decode(row["prompt_ids"]), self.completion(_response(row))
        found = (kind.find_answer(prompt, response) for kind in self.answer_formats)
        return next((answer for answer in found if answer is not None), None)


def dvo_lines(tree: list[Row], texts: Texts) -> Iterator[Line]:
    """Yields the paths of a tree in the published format, with columns of their own behind."""
    for row in tree:
        yield {
            "prompt": texts.decode(row["prompt_ids"]),
            "completions": row["steps"],
            "q_credits": row["credits"],
            "acc": int(row["correct"]),
            "question": row["problem"],
            "ground_truth": row["answer"],
            "final_answer": texts.answer(row),
            "tag": str(row["path"]),
            "all_visit_num": row["visits"],
            "all_q_value": [*row["values"][1:], row["reward"]],
            **{name: row[name] for name in _OWN_COLUMNS},
        }


_PUBLISHED_COLUMNS = {
    "problem": "question",
    "answer": "ground_truth",
    "steps": "completions",
    "visits": "all_visit_num",
    "credits": "q_credits",
}
_OWN_COLUMNS = ("problem_id", "prompt_ids", "step_ids", "values", "reward", REFERENCE)


def read_dvo_lines(path: Path) -> Iterator[Row]:
    """Yields the paths of a file that `dvo_lines` made.

    Raises:
        InputError: Naming the first line that holds none.
    """
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
                row = {name: line[name] for name in _OWN_COLUMNS}
                row |= {name: line[other] for name, other in _PUBLISHED_COLUMNS.items()}
                row |= {"path": int(line["tag"]), "correct": bool(line["acc"])}
                lengths = {len(row[name]) for name in ("step_ids", "steps", "values", "credits")}
                if len(lengths) > 1:
                    raise ValueError(f"lists of {sorted(lengths)} steps")
            except KeyError as error:
                raise InputError(f"--input {path}, line {number}: no column {error}") from error
            except (ValueError, TypeError, RecursionError) as error:
                raise InputError(f"--input {path}, line {number}: no path: {error}") from error
            yield row


def rft_lines(tree: list[Row], texts: Texts) -> Iterator[Line]:
    """Yields the right paths of a tree, for supervised training (TRL: prompt-completion)."""
    for row in tree:
        if row["correct"]:
            yield completion_line(row["problem_id"], row["prompt_ids"], _response(row), texts)


def kto_lines(tree: list[Row], texts: Texts) -> Iterator[Line]:
    """Yields all paths of a tree with their labels (TRL: unpaired preference)."""
    for row in tree:
        line = completion_line(row["problem_id"], row["prompt_ids"], _response(row), texts)
        yield line | {"label": row["correct"]}


def dpo_lines(tree: list[Row], texts: Texts) -> Iterator[Line]:
    """Yields pairs of a right and a wrong path of a tree (TRL: preference); each is in one pair."""
    for right, wrong in zip(*_sides(tree), strict=False):
        prompt = right["prompt_ids"]
        yield _pair_line(right["problem_id"], prompt, _response(right), _response(wrong), texts)


def step_dpo_lines(tree: list[Row], texts: Texts) -> Iterator[Line]:
    """Yields pairs of steps with which a right and a wrong path part (TRL: preference).

    A step of a right path may be worse than one of a wrong path. Such pairs are left out: the
    chosen step has the larger value. Of more than `STEP_PAIRS` those of the largest differences
    are taken.
    """
    pairs: dict[tuple[tuple[int, ...], ...], tuple[float, Line]] = {}
    for right, wrong in product(*_sides(tree)):
        steps = zip(right["step_ids"], wrong["step_ids"], strict=False)
        place = next((i for i, (chosen, rejected) in enumerate(steps) if chosen != rejected), None)
        if place is None:
            continue
        gap = _value_after(right, place) - _value_after(wrong, place)
        if gap <= 0:
            continue
        shared = [*right["prompt_ids"], *chain.from_iterable(right["step_ids"][:place])]
        chosen, rejected = right["step_ids"][place], wrong["step_ids"][place]
        key = tuple(shared), tuple(chosen), tuple(rejected)
        line = _pair_line(right["problem_id"], shared, chosen, rejected, texts)
        pairs.setdefault(key, (gap, line))
    taken = sorted(pairs, key=lambda key: -pairs[key][0])[:STEP_PAIRS]
    yield from (line for key, (_, line) in pairs.items() if key in taken)


FORMATS: dict[FormatName, Callable[[list[Row], Texts], Iterator[Line]]] = {
    "dvo": dvo_lines,
    "rft": rft_lines,
    "dpo": dpo_lines,
    "kto": kto_lines,
    "step_dpo": step_dpo_lines,
}


def _sides(tree: list[Row]) -> tuple[list[Row], list[Row]]:
    """Returns the right and the wrong paths of a tree."""
    return [row for row in tree if row["correct"]], [row for row in tree if not row["correct"]]


def _response(row: Row) -> list[int]:
    return list(chain.from_iterable(row["step_ids"]))


def _value_after(row: Row, step: int) -> float:
    value: float = row["values"][step + 1] if step + 1 < len(row["values"]) else row["reward"]
    return value


def completion_line(problem_id: str, prompt: list[int], ids: list[int], texts: Texts) -> Line:
    """Returns a prompt with a response, texts and token ids (TRL: prompt-completion)."""
    return {
        "prompt": texts.decode(prompt),
        "completion": texts.completion(ids),
        "problem_id": problem_id,
        "prompt_token_ids": prompt,
        "completion_token_ids": ids,
    }


def _pair_line(
    problem_id: str, prompt: list[int], chosen: list[int], rejected: list[int], texts: Texts
) -> Line:
    return {
        "prompt": texts.decode(prompt),
        "chosen": texts.completion(chosen),
        "rejected": texts.completion(rejected),
        "problem_id": problem_id,
        "prompt_token_ids": prompt,
        "chosen_token_ids": chosen,
        "rejected_token_ids": rejected,
    }


def _folder_rows(source: RowSource) -> Iterator[Row]:
    for start in range(0, source.num_rows, WINDOW_ROWS):
        stop = min(start + WINDOW_ROWS, source.num_rows)
        yield from source.read(start, stop, PATH_SCHEMA.names).to_pylist()


def open_rows(args: ExportArgs) -> tuple[Callable[[], Iterator[Row]], str | None]:
    """Opens the input.

    Returns:
        What reads its paths, and a digest of them.

    Raises:
        InputError: If there are none.
    """
    if args.input.is_file():
        return partial(read_dvo_lines, args.input), fingerprint(args.input)
    with naming("--input"):
        sources = open_sources(str(args.input), required=PATH_SCHEMA.names)
    if args.split not in sources:
        raise InputError(f"--split {args.split}: {args.input} has {', '.join(sources)} only")
    source = sources[args.split]
    return partial(_folder_rows, source), source.digest


_RECORDED = ("model", "answer_format", "think_tags")


def recorded(path: Path) -> dict[str, Any]:
    """Returns what the input says of its trees, as far as all agree on one.

    That is `model`, `answer_format` and `think_tags`.

    Args:
        path: See `--input`.

    Raises:
        InputError: If it is a folder whose stage is not finished.
    """
    if path.is_file():
        saved = read_json(config_path(path)) or {}
        saved["model"] = saved.get("tokenizer")
        return {name: saved[name] for name in _RECORDED if saved.get(name)}
    if not (path / STAGE_FILE).is_file():
        return {}
    with naming("--input"):
        stage = FinishedStage(path, DVO_REFERENCE)
    # The reference is the policy of the trees, and its folder may have moved since.
    of_trees = [settings | stage.settings for settings in stage.origin.get("trees_settings", [])]
    found = {}
    for name in _RECORDED:
        first, *others = [settings.get(name) for settings in of_trees or [stage.settings]]
        if first and all(other == first for other in others):
            found[name] = first
    return found


def config_path(output: Path) -> Path:
    """Returns the file of settings beside a file of lines."""
    return output.with_name(f"{output.name}.config.json")


def open_texts(policy: str, answer_formats: Sequence[AnswerFormat] = ()) -> Texts:
    """Loads the tokenizer of a policy.

    Args:
        policy: Folder or Hub id.
        answer_formats: See `Texts`.

    Raises:
        InputError: If there is none.
    """
    with naming("--tokenizer"):
        tokenizer = load_tokenizer(policy)
        return Texts(tokenizer, stop_token_ids(policy, tokenizer), answer_formats)


def bind_output(args: Any, digest: str | None, known: Mapping[str, Any] | None = None) -> bool:
    """Saves the settings of a file of lines beside it, or compares them with those there.

    Args:
        args: Flags of the command, a dataclass with `output` and `tokenizer`.
        digest: Digest of its input.
        known: What else the lines are of.

    Returns:
        Whether the file is still to be made.

    Raises:
        InputError: If the file is there, with other settings.
    """
    contents = {"input": digest, "tokenizer": fingerprint(args.tokenizer, TOKENIZER_FILES)}
    with naming("--output", OSError):
        args.output.parent.mkdir(parents=True, exist_ok=True)
        advice = "Give these lines another --output, or delete the file"
        file = SettingsFile(config_path(args.output), args.output, advice, free_flags(args))
        is_new = not args.output.exists()
        file.bind(Settings({**as_json(args), **(known or {})}, contents), is_new)
    if not is_new:
        print(f"{args.output} is complete already")
    return is_new


def write_lines(args: ExportArgs, rows: Iterator[Row], texts: Texts) -> tuple[int, int, int]:
    """Writes the file, whole or not at all.

    Returns:
        The numbers of its lines, of the paths, and of their trees.

    Raises:
        InputError: If the tokenizer is another policy's, or there is no line to write.
    """
    num_lines, num_paths, num_trees = 0, 0, 0
    with naming("--output", OSError), atomic_file(args.output) as file:
        for tree in by_tree(rows):
            check_prompts(tree, texts.tokenizer, f"--tokenizer {args.tokenizer}")
            num_trees += 1
            num_paths += len(tree)
            for line in FORMATS[args.format](tree, texts):
                file.write(f"{json.dumps(line, allow_nan=False)}\n".encode("ascii"))
                num_lines += 1
        if not num_lines:
            raise InputError(
                f"--input {args.input}: its {num_paths} paths make no line of --format "
                f"{args.format}"
            )
    return num_lines, num_paths, num_trees


def run(args: ExportArgs) -> None:
    """Writes the file, unless it is there.

    Raises:
        InputError: If something that was given can't be used.
    """
    known = recorded(args.input)
    args = replace(args, tokenizer=args.tokenizer or known.get("model"))
    if args.tokenizer is None:
        raise InputError("--tokenizer is needed: name the policy that made the trees")
    answer_format = known.get("answer_format")
    formats = [ANSWER_FORMATS[answer_format]] if answer_format in ANSWER_FORMATS else ANY_FORMAT
    thoughts = Thoughts.of(known.get("think_tags", "auto"))
    formats = [replace(kind, thoughts=thoughts) for kind in formats]
    texts = open_texts(args.tokenizer, formats)
    read, digest = open_rows(args)
    # What tells where an answer stands is for who reads the lines; older files are without it.
    told: dict[str, Any] = {
        name: known[name] for name in ("answer_format", "think_tags") if name in known
    }
    if not bind_output(args, digest, told):
        return
    num_lines, num_paths, num_trees = write_lines(args, read(), texts)
    print(
        f"{args.output}: {num_lines:,} lines of {args.format}, from {num_paths:,} paths of "
        f"{num_trees:,} trees"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(ExportArgs, EXPORT, __doc__, argv)
    run_command(EXPORT, lambda: run(args))


if __name__ == "__main__":
    main()

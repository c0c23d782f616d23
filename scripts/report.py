"""Writes one HTML page of finished runs: accuracies, search trees, votes, and the value model.

    python -m scripts.report outputs/quickstart/bon outputs/quickstart/beam2 --out report.html

Each is a run of inference_eval.py on the same problems: `folder`, with `label=` in front of it to
call it otherwise. The page opens offline and loads nothing. With `--classifier_ckpt_path` a value
model adds the value after every token, where `--token_values` of the run saved none.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from dvo_lib.path_pages import load_paths
from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.files import replace_file
from search_lib.answer_rules import ANSWER_RULES, RulesName
from search_lib.results.page.build import build_page
from search_lib.results.page.run_pages import load_runs
from search_lib.results.run_config import check_same_problems
from search_lib.results.selection import parse_selections

PROGRAM = "scripts.report"


@dataclass(frozen=True)
class Args:
    """One page of what the searches did."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """folder or label=folder."""
    out: Path
    """The page, a .html file."""
    classifier_ckpt_path: str | None = None
    """Value model, Hub id or folder, that adds values of tokens to the blocks of runs that saved
    none. It needs their blocks.jsonl."""
    dvo_trees: Path | None = None
    """Output of `data_prep.dvo trees`: also shows paths of its trees with the credits of steps."""
    answers: RulesName = "strict"
    """Rules by which answers were counted (docs/search.md)."""
    title: str = "Search report"
    """Heading of the page."""


def main(args: Args) -> None:
    """Reads the runs and writes the page.

    Raises:
        InputError: If a run can't be read, or the runs are of different problems.
    """
    if args.out.suffix != ".html":
        raise InputError(f"--out {args.out} does not end in .html")
    values = None
    if args.classifier_ckpt_path is not None:
        # These need torch, as nothing else here.
        from run_lib.hub import quiet_transformers
        from search_lib.token_values import TreeValues

        quiet_transformers()
        with naming("--classifier_ckpt_path"):
            values = TreeValues(args.classifier_ckpt_path)
    with naming("RUNS"):
        selections = parse_selections(args.runs)
        pages = load_runs(selections, ANSWER_RULES[args.answers], values.of if values else None)
        check_same_problems([page.run.problem_set for page in pages])
    with naming("--dvo_trees"):
        dvo_trees = load_paths(args.dvo_trees) if args.dvo_trees else []
    content = build_page(pages, args.title, dvo_trees).encode()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(args.out, content)
    num_trees = sum(len(page.every_search) for page in pages)
    print(
        f"{args.out}: {len(content) / 1e6:.1f} MB; runs: {len(pages)}, "
        f"problems: {len(pages[0].graded)}, trees: {num_trees}"
    )
    for page in pages:
        for line in page.lacks():
            print(f"{page.selection.label}: {line}")
    if values is not None:
        print(values.close())


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: main(args))


if __name__ == "__main__":
    run()

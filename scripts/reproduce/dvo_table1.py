"""Table 1 of the DVO paper: mathematics before DVO, after it, and after four baselines.

    python -m scripts.reproduce.dvo_table1 --dry_run --problems metamath.jsonl
    python -m scripts.reproduce.dvo_table1 --toy

Zero-shot at temperature 0.7, mean of three runs. Trees and paths are those of the published code
(docs/dvo.md). Llama-3-70B-Instruct stands in the table and not in the plan: scripts.trl_train, of
the supervised training and the baselines, keeps all weights on every GPU.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence

from run_lib.commands import parse_command_line, run_command
from run_lib.text import format_table
from scripts.reproduce.dvo_runs import DvoPlanArgs, DvoRuns, scale_of
from scripts.reproduce.plan import carry_out
from scripts.reproduce.searches import name_missing
from search_lib.results.metrics import format_estimate

PROGRAM = "scripts.reproduce.dvo_table1"

LINES = {
    "start": "",
    "rft": " + RFT",
    "dpo": " + DPO",
    "kto": " + KTO",
    "step_dpo": " + Step-DPO",
    "dvo": " + DVO",
}

PUBLISHED = {
    "deepseek-math-7b": {
        "start": (81.4, 44.4, 43.4),
        "rft": (81.0, 44.1, 43.5),
        "dpo": (82.1, 46.0, 44.8),
        "kto": (83.0, 44.0, 43.2),
        "step_dpo": (82.0, 45.7, 43.3),
        "dvo": (85.2, 47.6, 46.3),
    },
    "llama-3-8b": {
        "start": (74.6, 22.5, 23.5),
        "rft": (75.6, 23.4, 23.9),
        "dpo": (75.3, 22.3, 23.8),
        "kto": (76.0, 24.1, 24.3),
        "step_dpo": (76.6, 23.3, 23.5),
        "dvo": (80.6, 26.5, 27.9),
    },
    "llama-3-70b": {
        "start": (85.4, 34.9, 33.8),
        "rft": (86.3, 34.8, 35.2),
        "dpo": (82.7, 32.6, 31.5),
        "kto": (86.5, 35.8, 35.5),
        "step_dpo": (87.7, 36.7, 35.0),
        "dvo": (90.7, 40.3, 38.9),
    },
}
"""Accuracy in % on GSM8K, MATH and AGIEval-Math; some decimal points are lost in the scan of the
paper that this project has, and put back."""


def format_rows(args: DvoPlanArgs) -> str:
    """Returns the table; names the lines whose runs are missing."""
    benchmarks = scale_of(args).benchmarks
    trained = {backbone.name: DvoRuns(args, backbone) for backbone in scale_of(args).backbones}
    lines, missing = [], []
    for name in trained if args.toy else PUBLISHED:
        for key, label in LINES.items():
            published = PUBLISHED.get(name, {}).get(key)
            line = [f"{name}{label}"]
            for place, benchmark in enumerate(benchmarks):
                estimate = None
                if runs := trained.get(name):
                    policy = {"start": runs.backbone.start, "dvo": runs.dvo}.get(key, key)
                    estimate = runs.accuracy(policy, benchmark)
                    if estimate is None:
                        missing.append(f"{name}/{policy}/{benchmark}")
                line.append("-" if estimate is None else format_estimate(estimate))
                line.append(f"{published[place]:.1f}" if published else "-")
            lines.append(line)
    header = [""] + [cell for benchmark in benchmarks for cell in (benchmark, "published")]
    notes = "accuracy in %, mean of 3 runs ± 95 % interval over problems (over searches)"
    return f"{format_table(header, lines)}\n{notes}\n{name_missing(missing)}".rstrip()


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(DvoPlanArgs, PROGRAM, __doc__, argv)

    def work() -> int:
        args.check()
        commands = [
            command
            for backbone in scale_of(args).backbones
            for command in DvoRuns(args, backbone).commands()
        ]
        return carry_out(
            PROGRAM, args, commands, lambda draw: format_rows(args), args.training_gpu_flops
        )

    run_command(PROGRAM, work)


if __name__ == "__main__":
    main()

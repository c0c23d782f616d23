"""Command line of `python -m data_prep.dvo COMMAND ...`."""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

import runpy
import sys
from collections.abc import Sequence

from run_lib.commands import end

PROGRAM = "python -m data_prep.dvo"

COMMANDS = {
    "problems": "give every round of DVO problems of its own",
    "sft": "choose the policy's own right responses in steps, to train it on before the trees",
    "trees": "grow a tree of reasoning steps for every problem",
    "paths": "draw responses from the trees, with the credit of each step",
    "reference": "add the log-probabilities of steps under the policy that made the trees",
    "export": "write paths as JSON lines, as published and for TRL's trainers",
}
"""Commands with what they do. Each is the file of its name here, and runs by itself, too."""


def main(argv: Sequence[str]) -> None:
    """Runs a command, or says which there are."""
    name, *rest = argv or [""]
    if name in ("-h", "--help"):
        lines = [f"  {command:10}  {what}" for command, what in COMMANDS.items()]
        print("\n".join([f"usage: {PROGRAM} COMMAND [-h] [OPTIONS]", "", *lines]))
        return
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        end(2, f"{PROGRAM}: error: the first argument is the command ({known}), not {name!r}")
    sys.argv[1:] = rest
    runpy.run_module(f"data_prep.dvo.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What the command lines of this package have in common."""

import re
import sys
from typing import Any, NoReturn


class InputError(ValueError):
    """The user's input is at fault; the message names the flag, file, line or row."""


def exit_with_error(program: str, message: str) -> NoReturn:
    """Ends a command that was given something it can't use: one line, exit code 2."""
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def differing_flags(
    saved: dict[str, Any], current: dict[str, Any], may_change: frozenset[str]
) -> list[str]:
    """Returns one description for each flag that differs from the saved configuration.

    Args:
        saved: Configuration that the run was started with.
        current: Configuration asked for now.
        may_change: Flags that may differ.
    """
    return [
        f"--{name} {current.get(name)} (was {saved.get(name)})"
        for name in sorted(saved.keys() | current.keys())
        if name not in may_change and saved.get(name) != current.get(name)
    ]


def parse_shard(shard: str) -> tuple[int, int]:
    """Returns the numbers of `--shard i/n`: (which part, of how many).

    Raises:
        InputError: If it is anything else, or i is not in [0, n).
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or int(match[1]) >= int(match[2]):
        raise InputError(f"--shard {shard}: expected i/n with i from 0 to n - 1, e.g. 0/2")
    return int(match[1]), int(match[2])

"""Commands that are refused."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest


def refusal(
    main: Callable[[list[str]], Any], program: str, argv: Sequence[str], capsys: Any
) -> str:
    """Runs a command that is refused; returns the one line that says why.

    Args:
        main: The command, which takes its arguments.
        program: Its name, with which the line begins.
        argv: The arguments.
        capsys: pytest's fixture.
    """
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{program}: error: ")
    return str(line)

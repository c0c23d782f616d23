"""Files of JSON lines that are appended to: a line is whole, or cut off by the next start."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from run_lib.files import naming_file


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Appends whole lines, and returns when the disk has them.

    Args:
        path: The file; it is made if there is none.
        lines: Each with its newline.

    Raises:
        OSError: Naming the file, if the disk doesn't take all of them; it then has none of them.
    """
    content = memoryview(b"".join(lines))
    with naming_file(path), path.open("ab", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(start)
            raise


def cut_torn_line(path: Path) -> None:
    """Cuts off the line that a killed process left unfinished; leaves an absent file absent."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 2**16)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)

"""Checksums of the files of a folder, written with it and compared when it is read.

`SHA256SUMS` has a line for every other file of the folder, in the form of `sha256sum`: within the
folder, `sha256sum -c SHA256SUMS` compares them, too.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from run_lib.text import some_of

CHECKSUMS_FILE = "SHA256SUMS"


def checksum(path: Path) -> str:
    """Returns the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Writes the checksums of a folder that is complete but for them.

    Args:
        folder: The folder.
        known: Checksums by name (see `find_faults`) that need not be computed again.
    """
    known = known or {}
    lines = [f"{known.get(name) or checksum(folder / name)}  {name}\n" for name in _names(folder)]
    (folder / CHECKSUMS_FILE).write_text("".join(lines), encoding="utf-8")


def find_faults(
    folder: Path, patterns: tuple[str, ...] = ("*",), part: int = 0, num_parts: int = 1
) -> dict[str, str] | None:
    """Compares the files of a folder with their checksums.

    Args:
        folder: The folder.
        patterns: Patterns of the names of the files to compare.
        part: Part of the work to do, where several processes share it.
        num_parts: Number of these parts.

    Returns:
        Faults by the name of the file, relative to the folder, each as it follows the name in a
        message; {} if there is none, None if the folder has no checksums.
    """
    try:
        checksums = _read(folder)
    except (OSError, ValueError) as error:
        return {CHECKSUMS_FILE: f"can't be read: {error}"}
    if checksums is None:
        return None
    names = [name for name in checksums if any(fnmatch(name, pattern) for pattern in patterns)]
    sizes = {name: _size(folder / name) for name in names}
    names.sort(key=lambda name: (-sizes[name], name))
    faults = {}
    for name in names[part::num_parts]:
        try:
            if checksum(folder / name) != checksums[name]:
                faults[name] = "doesn't match its checksum"
        except FileNotFoundError:
            faults[name] = "is missing"
        except OSError as error:
            faults[name] = f"can't be read: {error}"
    return faults


def files_without_checksum(folder: Path) -> list[str]:
    """Returns the names of the files of a folder that its checksums, which are there, leave out."""
    return sorted(set(_names(folder)) - set(_read(folder) or ()))


def check_intact(folder: str | Path, *patterns: str) -> None:
    """Compares files of a folder with their checksums, if it has any.

    Args:
        folder: The folder; also a Hub id, whose files are not looked at.
        *patterns: Patterns of the names of the files.

    Raises:
        ValueError: If some don't match; one line that begins with the folder.
    """
    if faults := find_faults(Path(folder), patterns):
        raise ValueError(
            f"{folder} is damaged: {describe_faults(faults)} (if you have changed it yourself, "
            f"remove {CHECKSUMS_FILE})"
        )


def describe_faults(faults: Mapping[str, str]) -> str:
    """Returns the faults of `find_faults` in one line."""
    return some_of([f"{name} {fault}" for name, fault in sorted(faults.items())])


def _names(folder: Path) -> list[str]:
    """Returns the files of a folder and its subfolders, but for the checksums."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if name != CHECKSUMS_FILE)


def _read(folder: Path) -> dict[str, str] | None:
    """Returns checksums by name; None if the folder has none.

    Raises:
        ValueError: If a line is damaged.
    """
    if not os.path.isdir(folder):  # nor a name that is too long for one
        return None
    try:
        text = (folder / CHECKSUMS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    checksums = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None:
            raise ValueError(f"line {number} is damaged")
        checksums[match[2]] = match[1]
    if not text.endswith("\n"):
        raise ValueError("its end is missing")
    return checksums


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

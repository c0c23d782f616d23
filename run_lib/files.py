"""Files and folders that are complete or absent, whatever is killed while they are written."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from run_lib.commands import InputError

TEMPORARY_FILES = ".*.tmp"
"""What a killed `replace_file` leaves behind."""


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Has the disk's errors in the block name a file: those of opened files name none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path, replaces: bool = True) -> Iterator[Path]:
    """Yields a temporary folder beside `path` that becomes `path` when the block succeeds.

    Files reach the disk before the rename.

    Args:
        path: The folder.
        replaces: Whether it takes the place of a folder that stood there before; else only of an
            empty one.

    Raises:
        OSError: If something stands there that it doesn't replace.
    """
    # Of two processes that want the same free place, one gets it: they share no folder.
    own = "" if replaces else f".{uuid.uuid4().hex[:8]}"
    temporary = path.with_name(f".{path.name}{own}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with removed_on_failure(temporary):
        yield temporary
        publish_folder(temporary, path, replaces)


@contextlib.contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Removes a folder if the block fails: of its space there may be too little."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def publish_folder(temporary: Path, path: Path, replaces: bool = True) -> None:
    """Renames a folder to `path` once its files have reached the disk; see `atomic_folder`."""
    for folder, _, files in os.walk(temporary):
        for name in files:
            _fsync(Path(folder) / name)
        _fsync(Path(folder))
    if replaces and path.exists():
        remove_folder(path)
    temporary.rename(path)  # also onto an empty folder
    _fsync(path.parent)


def remove_folder(path: Path) -> None:
    """Removes a folder so that, whatever is killed, no half of it is left under its name.

    Raises:
        NotADirectoryError: If it is none; then it stays.
    """
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    doomed = path.with_name(f".{path.name}.old.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yields a temporary file beside `path` that becomes `path` when the block succeeds.

    What stood at `path` before is replaced. The file reaches the disk before the rename.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming_file(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file.

    Raises:
        ValueError: If the content holds a number that JSON doesn't know (NaN, infinity).
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    replace_file(path, text.encode())


def replace_file(path: Path, content: Any) -> None:
    """Writes a file whose old content stands until all of the new one has reached the disk.

    Several processes may do so at once: the last of them wins.

    Args:
        path: The file; its folder exists.
        content: Anything with a buffer of bytes.

    Raises:
        OSError: Naming the file, if it can't be written; then the old content stands.
    """
    # Matches TEMPORARY_FILES.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with naming_file(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file; None if there is no such file.

    Raises:
        InputError: If it holds anything else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: not a JSON object")
    return content


def lock_file(path: Path, busy: str) -> IO[bytes]:
    """Takes a lock that is released when the file is closed or the process ends.

    On a file system without locks (Lustre without `flock`) it warns and goes on.

    Args:
        path: The file; it is made if there is none.
        busy: What the error says if another process holds the lock.

    Raises:
        InputError: If another process holds it.
    """
    lock = try_lock(path)
    if lock is None:
        raise InputError(busy)
    return lock


def try_lock(path: Path) -> IO[bytes] | None:
    """Takes a lock as `lock_file` does; returns None if another process holds it."""
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            lock.close()
            raise
        print(f"warning: no lock on {path}, don't start it twice: {error}", file=sys.stderr)
    return lock


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Writes files by name into a folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)

"""Digests of local files and folders, so that a run never goes on with other contents."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

MODEL_FILES = ("*.safetensors", "pytorch_model*.bin", "config.json", "tokenizer.json")
DATA_FILES = ("*.parquet", "*.arrow", "*.jsonl")

_ENDS = 2**20  # bytes


def fingerprint(path: str | Path, patterns: Iterable[str] = ()) -> str | None:
    """Returns a digest of a file, or of the files of a folder that match a pattern.

    Of each file its name, its size, and its first and last MiB count: that tells retrained weights
    apart without reading gigabytes.

    Args:
        path: File or folder; also a Hub id, whose content is not looked at.
        patterns: Patterns of file names, for a folder.

    Returns:
        The digest; None if there is no such file or folder, or no matching file in it.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted({file for pattern in patterns for file in path.glob(pattern)})
    else:
        files = [path] if path.is_file() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            size = content.seek(0, 2)
            digest.update(f"{file.name if path.is_dir() else ''} {size} ".encode())
            content.seek(0)
            digest.update(content.read(_ENDS))
            content.seek(max(0, size - _ENDS))
            digest.update(content.read())
    return digest.hexdigest()

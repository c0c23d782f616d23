"""What the stages of the data pipeline wrote."""

import json
from pathlib import Path

import pyarrow.parquet as pq


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder but the hidden ones, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def all_contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder but its locks, hidden ones and those of hidden folders included."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def read_rows(folder: Path, split: str = "train") -> list[dict]:
    files = sorted(folder.glob(f"{split}/*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def read_report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())["all"]


def bad_rows(folder: Path) -> dict[str, list[str]]:
    """The ids of the examples of a report by reason."""
    return {
        reason: [example["id"] for example in group["examples"]]
        for reason, group in read_report(folder)["bad_rows"].items()
    }


def only_folder(path: Path) -> Path:
    """The one folder below another, such as that of the only model of some roll-ins."""
    (folder,) = path.iterdir()
    return folder

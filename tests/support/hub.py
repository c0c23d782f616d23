"""The Hub in place of the one on the network."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest


class Api:
    """The Hub, which can't be reached at first."""

    pushed: list[Path]
    refused: str = "nothing"
    is_reached = False

    def create_repo(self, repo_id: str, exist_ok: bool) -> Any:
        if not Api.is_reached or repo_id == Api.refused:
            raise ConnectionError("no network")
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, repo_id: str, folder_path: Path, ignore_patterns: list[str]) -> None:
        assert folder_path.name == "final" or ignore_patterns == ["trainer/*", "trainer_state.json"]
        Api.pushed.append(folder_path)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives a test its own."""
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(Api, "pushed", [], raising=False)

"""A tiny policy and a tiny value model."""

import pytest
import torch

from tests.support.tiny_models import save_tiny_classifier, save_tiny_policy


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_policy(folder / "policy", dtype=torch.float64)
    save_tiny_classifier(folder / "value_model")
    return folder

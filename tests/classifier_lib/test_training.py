from pathlib import Path

import pytest
import torch

from classifier_lib.atomic_files import atomic_folder
from classifier_lib.data import GroupedRollouts, collate_padded
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.training import (
    build_optimizer,
    default_warmup_steps,
    differing_flags,
    learning_rate,
    load_trainer_state,
    newest_checkpoint,
    read_tokenizer,
    remove_leftovers,
    save_checkpoint,
)


def test_learning_rate_warms_up_and_falls_to_a_tenth():
    rates = [learning_rate(step, 1000, 100, 2e-4) for step in range(1000)]
    assert 0 < rates[0] < rates[50] < rates[99] < rates[100] == 2e-4
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(2e-5)
    assert rates[100 + 450] == pytest.approx(1.1e-4, rel=0.01)
    assert learning_rate(0, 1, 0, 1.0) == 1.0


def test_default_warmup():
    assert default_warmup_steps(12170) == 609
    assert default_warmup_steps(1000) == 100
    assert default_warmup_steps(20) == 10
    assert default_warmup_steps(1) == 0


def test_decay_on_matrices_only(tiny_config):
    optimizer = build_optimizer(Qwen2ForClassifier(tiny_config), 1e-3, 0.1)
    decayed, plain = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in plain["params"]} == {1}
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.95), 1e-6)


def test_padding_needs_no_attention_mask(tiny_config, rollout_folder):
    """What `Batch.model_inputs(with_mask=False)` relies on."""
    torch.manual_seed(0)
    model = Qwen2ForClassifier(tiny_config).eval()
    data = GroupedRollouts(str(rollout_folder), 4)
    batch = collate_padded([data[i] for i in range(8)], max_length=100)
    device = torch.device("cpu")
    with torch.no_grad():
        masked = model(**batch.model_inputs(device, with_mask=True))
        bare = model(**batch.model_inputs(device, with_mask=False))
    torch.testing.assert_close(masked.loss, bare.loss)
    torch.testing.assert_close(
        masked.logits[batch.loss_mask], bare.logits[batch.loss_mask], atol=1e-6, rtol=1e-5
    )


def test_a_half_written_checkpoint_is_none(tmp_path: Path):
    def fail_half_way() -> None:
        with atomic_folder(tmp_path / "step_1") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert newest_checkpoint(tmp_path) is None


def test_checkpoints_are_kept_until_newer_ones_are_whole(tiny_config, tmp_path, monkeypatch):
    model = Qwen2ForClassifier(tiny_config)
    for step in (8, 9, 10):
        save_checkpoint(tmp_path, model, {}, {"step": step}, max_keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_9"]
    newest = newest_checkpoint(tmp_path)
    assert newest == tmp_path / "step_10"  # by number, not by name
    assert load_trainer_state(newest) == {"step": 10}
    loaded = Qwen2ForClassifier.from_pretrained(newest)
    assert torch.equal(loaded.score[2].weight, model.score[2].weight)

    def full_disk(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path, model, {}, {"step": 11}, max_keep=1)
    assert newest_checkpoint(tmp_path) == newest
    assert (tmp_path / ".step_11.tmp").exists()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_9"]


def test_tokenizer_files_are_found(tiny_policy, tmp_path):
    name = "tokenizer_config.json"
    assert read_tokenizer(tiny_policy) == {name: (tiny_policy / name).read_bytes()}
    assert read_tokenizer(tmp_path) == {}


def test_differing_flags_are_named():
    saved, current = {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "c": 4, "d": 6}
    assert differing_flags(saved, current, frozenset({"c"})) == [
        "--b 5 (was 2)",
        "--d 6 (was None)",
    ]

import json

import pytest
import torch

from classifier_lib import evaluation
from classifier_lib.data import GroupedRollouts, collate_padded
from classifier_lib.evaluation import evaluate, format_evaluation, scalar_metrics
from classifier_lib.losses import LOSSES
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.training import Processes

ALONE = Processes(0, 1, torch.device("cpu"))
BUCKET = 16


@pytest.fixture(scope="module")
def model(tiny_config) -> Qwen2ForClassifier:
    torch.manual_seed(0)
    return Qwen2ForClassifier(tiny_config).train()


@pytest.fixture(scope="module")
def data(rollout_folder) -> GroupedRollouts:
    return GroupedRollouts(str(rollout_folder), 4)


def run(model: Qwen2ForClassifier, data: GroupedRollouts, batch_size: int) -> dict:
    loss = LOSSES["cross_entropy"]
    return evaluate(model, data, loss, batch_size, 100, BUCKET, ALONE, with_mask=False)


def reference_auroc(tokens: list[dict]) -> float | None:
    right = [token["prob"] for token in tokens if token["label"] == 1]
    wrong = [token["prob"] for token in tokens if token["label"] != 1]
    if not right or not wrong:
        return None
    wins = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
    return wins / (len(right) * len(wrong))


def reference_tokens(model: Qwen2ForClassifier, data: GroupedRollouts) -> list[dict]:
    tokens = []
    model.eval()
    for sample in (data[i] for i in range(len(data))):
        batch = collate_padded([sample], 100)
        with torch.no_grad():
            logits = model(batch.input_ids, batch.attention_mask).logits[0]
        length = len(sample.roll_in) + len(sample.roll_out)
        for position in range(len(sample.roll_in), length):
            probs = logits[position].softmax(-1)
            tokens.append(
                {
                    "label": sample.label,
                    "prob": probs[1].item(),
                    "right": probs.argmax().item() == sample.label,
                    "decile": 10 * position // length,
                    "bucket": position // BUCKET,
                    "weight": 1 / len(sample.roll_out) / len(data),
                    "loss": -probs[sample.label].log().item(),
                }
            )
    model.train()
    return tokens


def test_metrics_equal_a_loop_over_tokens(model, data):
    tokens = reference_tokens(model, data)
    metrics = run(model, data, batch_size=8)
    assert model.training
    assert metrics["num_tokens"] == len(tokens)
    assert metrics["loss"] == pytest.approx(sum(t["loss"] * t["weight"] for t in tokens))
    assert metrics["accuracy"] == pytest.approx(sum(t["right"] for t in tokens) / len(tokens))
    brier = sum((t["prob"] - (t["label"] == 1)) ** 2 for t in tokens) / len(tokens)
    assert metrics["brier"] == pytest.approx(brier)
    assert metrics["auroc"] == pytest.approx(reference_auroc(tokens), abs=1e-5)
    assert len(metrics["by_decile"]) == 10
    for name, key in (("by_decile", "decile"), ("by_position", "bucket")):
        for number, bucket in enumerate(metrics[name]):
            inside = [token for token in tokens if token[key] == number]
            expected = reference_auroc(inside)
            assert bucket["num_tokens"] == len(inside)
            assert bucket["auroc"] == (
                None if expected is None else pytest.approx(expected, abs=1e-5)
            )
    assert sum(bucket["num_tokens"] for bucket in metrics["by_position"]) == len(tokens)


def test_batch_size_does_not_matter(model, data):
    small, large = run(model, data, batch_size=3), run(model, data, batch_size=40)
    assert small["num_tokens"] == large["num_tokens"]
    for name in ("loss", "accuracy", "auroc", "brier"):
        assert small[name] == pytest.approx(large[name], abs=1e-4)


def test_a_bucket_of_one_class_is_null(model, data):
    one_class = [index for index in range(len(data)) if data[index].label == 0]

    class Subset:
        def __len__(self) -> int:
            return len(one_class)

        def __getitem__(self, index: int):
            return data[one_class[index]]

    metrics = run(model, Subset(), batch_size=4)  # type: ignore[arg-type]
    assert metrics["auroc"] is None
    assert all(bucket["auroc"] is None for bucket in metrics["by_decile"])
    assert "auroc      -" in format_evaluation(metrics)
    assert set(scalar_metrics(metrics)) == {"eval/loss", "eval/accuracy", "eval/brier"}
    json.dumps(metrics, allow_nan=False)


def test_command_writes_json_and_prints_a_table(model, data, rollout_folder, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    output = tmp_path / "deep" / "evaluation.json"
    flags = ["--model", str(tmp_path / "model"), "--data", str(rollout_folder)]
    flags += ["--data_num_response", "4", "--max_length", "100", "--bucket_tokens", str(BUCKET)]
    evaluation.main([*flags, "--output", str(output)])
    assert json.loads(output.read_text()) == run(model, data, batch_size=8)
    assert "auroc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model_name", "data_name", "message"),
    [
        ("model", "absent", "absent: no such file or folder"),
        ("absent", "rollouts", "absent"),
        ("policy", "rollouts", "is no value model: no weights for score.0.weight, score.2.weight"),
    ],
)
def test_command_errors_are_one_line(
    model, tiny_policy, rollout_folder, tmp_path, capsys, model_name, data_name, message
):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "policy").symlink_to(tiny_policy)
    (tmp_path / "rollouts").symlink_to(rollout_folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        evaluation.main(
            ["--model", str(tmp_path / model_name), "--data", str(tmp_path / data_name)]
        )
    assert exit_info.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error" in x]
    assert line.startswith("evaluation: error: ")
    assert message in line

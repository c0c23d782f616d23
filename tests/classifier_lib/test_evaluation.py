import json
import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from classifier_lib import evaluation
from classifier_lib.attention import SEGMENTED_SDPA
from classifier_lib.batches import BatchPlan
from classifier_lib.data import GroupedRollouts
from classifier_lib.evaluation import evaluate, format_evaluation, scalar_metrics
from classifier_lib.learner import Learner
from classifier_lib.losses import LOSSES, Targets
from classifier_lib.modeling import Qwen2ForClassifier
from run_lib.processes import Processes
from tests.support.distributed import Played
from tests.support.tiny_models import build_tiny_config

ALONE = Processes(0, 1, torch.device("cpu"))
BUCKET = 16
MAX_LENGTH = 30  # cuts some samples
SCORES = ("accuracy", "auroc", "brier", "calibration_error")
FIT_SCORES = ("explained_variance", "r2", "precision", "recall", "specificity", "f1")


@pytest.fixture(scope="module")
def models() -> dict[int, Qwen2ForClassifier]:
    """By number of labels; with probabilities far from each other."""
    made = {}
    for num_labels in (1, 3):
        torch.manual_seed(0)
        config = build_tiny_config(num_labels=num_labels, initializer_range=0.25)
        model = Qwen2ForClassifier._from_config(config, attn_implementation=SEGMENTED_SDPA)
        made[num_labels] = model.train()
    return made


@pytest.fixture(scope="module")
def data(rollout_folder) -> GroupedRollouts:
    return GroupedRollouts(str(rollout_folder), 4, soft_targets=True)


def run(
    models: dict[int, Qwen2ForClassifier],
    data: GroupedRollouts,
    loss: str = "cross_entropy",
    batch_size: int = 8,
    packing: str = "padded",
    processes: Processes = ALONE,
) -> dict[str, Any]:
    plan = BatchPlan(packing, MAX_LENGTH, batch_size)
    model = models[LOSSES[loss].num_labels]
    learner = Learner(model, LOSSES[loss], SEGMENTED_SDPA, processes)
    return evaluate(learner, data, plan, BUCKET)


def check_equal(metrics: dict[str, Any], expected: dict[str, Any]) -> None:
    """Same structure, same counts, and scores equal to rounding."""
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, list):
            assert len(metrics[name]) == len(value)
            for bucket, expected_bucket in zip(metrics[name], value, strict=True):
                check_equal(bucket, expected_bucket)
        elif isinstance(value, float):
            assert metrics[name] == pytest.approx(value, abs=1e-5), name
        else:
            assert metrics[name] == value, name


def reference_auroc(tokens: list[dict]) -> float | None:
    right = [token["prob"] for token in tokens if token["reward"]]
    wrong = [token["prob"] for token in tokens if not token["reward"]]
    if not right or not wrong:
        return None
    wins = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
    return wins / (len(right) * len(wrong))


def reference_calibration_error(tokens: list[dict]) -> float:
    """Gap of mean prediction and share of rewards in 15 bins, weighted by their tokens."""
    bins: dict[int, list[dict]] = {}
    for token in tokens:
        bins.setdefault(min(int(token["prob"] * 15), 14), []).append(token)
    return sum(
        abs(sum(t["prob"] for t in inside) - sum(t["reward"] for t in inside))
        for inside in bins.values()
    ) / len(tokens)


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def reference_fit(tokens: list[dict]) -> dict[str, float | None]:
    """Variances by their definition, and counts of a table of prediction and reward."""
    rewards = [float(t["reward"]) for t in tokens]
    errors = [t["reward"] - t["prob"] for t in tokens]
    variance = statistics.pvariance(rewards)
    table = Counter((t["prob"] > 0.5, bool(t["reward"])) for t in tokens)
    hits, misses = table[True, True], table[False, True]
    alarms, rejections = table[True, False], table[False, False]
    unexplained = ratio(statistics.pvariance(errors), variance)
    squares = ratio(statistics.fmean(error**2 for error in errors), variance)
    return {
        "explained_variance": None if unexplained is None else 1 - unexplained,
        "r2": None if squares is None else 1 - squares,
        "precision": ratio(hits, hits + alarms),
        "recall": ratio(hits, hits + misses),
        "specificity": ratio(rejections, rejections + alarms),
        "f1": ratio(hits, hits + (misses + alarms) / 2),
    }


def reference_scores(tokens: list[dict], pairs: bool) -> dict[str, Any]:
    if not tokens:
        return {"num_tokens": 0} | dict.fromkeys(("loss", *SCORES, *FIT_SCORES))
    fit = dict.fromkeys(FIT_SCORES) if pairs else reference_fit(tokens)
    return fit | {
        "num_tokens": len(tokens),
        "loss": None if pairs else sum(t["loss"] for t in tokens) / len(tokens),
        "accuracy": None if pairs else sum(t["right"] for t in tokens) / len(tokens),
        "auroc": reference_auroc(tokens),
        "brier": None
        if pairs
        else sum((t["prob"] - t["reward"]) ** 2 for t in tokens) / len(tokens),
        "calibration_error": None if pairs else reference_calibration_error(tokens),
    }


def token_loss(loss: str, logits: torch.Tensor, label: int, soft: float) -> float:
    if loss == "cross_entropy":
        return -logits.log_softmax(-1)[label].item()
    p = logits[0].sigmoid().item()
    if loss == "bce":
        return -math.log(p if label == 1 else 1 - p)
    return (p - soft) ** 2


def reference_metrics(
    models: dict[int, Qwen2ForClassifier], data: Any, loss: str
) -> dict[str, Any]:
    model = models[LOSSES[loss].num_labels].eval()
    pairs = loss == "bradley_terry"
    tokens, sample_losses, sample_scores = [], [], []
    for sample in (data[i] for i in range(len(data))):
        ids = torch.tensor([*sample.roll_in.tolist(), *sample.roll_out.tolist()][:MAX_LENGTH])
        with torch.no_grad():
            logits = model(ids[None]).logits[0]
        mine = []
        for position in range(len(sample.roll_in), len(ids)):
            probs = logits[position].softmax(-1)
            prob = (probs[1] if len(probs) == 3 else logits[position, 0].sigmoid()).item()
            right = probs.argmax() == sample.label if len(probs) == 3 else None
            mine.append(
                {
                    "reward": sample.label == 1,
                    "prob": prob,
                    "right": (prob > 0.5) == (sample.label == 1) if right is None else bool(right),
                    "decile": 10 * position // len(ids),
                    "bucket": position // BUCKET,
                    "place": (position - len(sample.roll_in)) // 2,  # a 16th of 30, rounded up
                }
            )
        tokens += mine
        own = logits[len(sample.roll_in) :]
        assert len(own), "the mean below needs a token"
        sample_scores.append(own[:, 0].mean().item())
        if not pairs:
            losses = [token_loss(loss, x, sample.label, sample.soft_target) for x in own]
            for token, value in zip(mine, losses, strict=True):
                token["loss"] = value
            sample_losses.append(sum(losses) / len(losses))
    model.train()
    margins = []
    for i in range(0, len(data), 2):
        rewards = [data[j].label == 1 for j in (i, i + 1)]
        if rewards[0] != rewards[1]:
            margin = sample_scores[i] - sample_scores[i + 1]
            margins.append(margin if rewards[0] else -margin)
    terms = [math.log(1 + math.exp(-x)) for x in margins] if pairs else sample_losses
    expected = reference_scores(tokens, pairs) | {"loss": sum(terms) / len(terms)}
    if pairs:
        expected["accuracy"] = sum(x > 0 for x in margins) / len(margins)
    expected["by_decile"] = [
        {"from": i / 10, "to": (i + 1) / 10}
        | reference_scores([t for t in tokens if t["decile"] == i], pairs)
        for i in range(10)
    ]
    expected["by_position"] = [
        {"from": BUCKET * i, "to": BUCKET * (i + 1)}
        | reference_scores([t for t in tokens if t["bucket"] == i], pairs)
        for i in range(max(t["bucket"] for t in tokens) + 1)
    ]
    expected["by_rollout_position"] = [
        {"from": 2 * i, "to": 2 * (i + 1)}
        | reference_scores([t for t in tokens if t["place"] == i], pairs)
        for i in range(16)
    ]
    return expected


@pytest.mark.parametrize("loss", LOSSES)
def test_metrics_equal_a_loop_over_tokens(models, data, loss):
    metrics = run(models, data, loss)
    assert models[LOSSES[loss].num_labels].training
    check_equal(metrics, reference_metrics(models, data, loss))
    # The example is not one in which much would be right.
    assert 0.05 < metrics["accuracy"] < 0.95
    assert 0.1 < metrics["auroc"] < 0.9
    assert loss == "bradley_terry" or metrics["calibration_error"] > 0.05
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize("loss", ["cross_entropy", "bradley_terry"])
@pytest.mark.parametrize("packing", ["padded", "packed", "shared_prefix"])
def test_neither_batch_size_nor_packing_matters(models, data, loss, packing):
    expected = run(models, data, loss)
    for batch_size in (2, 14, 100):
        check_equal(run(models, data, loss, batch_size, packing), expected)


class Subset:
    """Some samples of a data set."""

    def __init__(self, data: GroupedRollouts, indices: list[int]):
        self.data, self.indices = data, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int):
        return self.data[self.indices[index]]

    def length(self, index: int) -> int:
        return self.data.length(self.indices[index])


def test_a_bucket_of_one_class_is_null(models, data):
    one_class = Subset(data, [index for index in range(len(data)) if data[index].label == 0])
    metrics = run(models, one_class, batch_size=4)
    assert metrics["auroc"] is None
    assert all(bucket["auroc"] is None for bucket in metrics["by_decile"])
    table, _ = format_evaluation(metrics).split("\n\n")
    row = table.splitlines()[-1].split()
    assert row[:2] == ["all", f"{metrics['num_tokens']:,}"]
    assert row[2:] == [
        "-" if metrics[name] is None else f"{metrics[name]:.4f}" for name in ("loss", *SCORES)
    ]
    assert set(scalar_metrics(metrics)) == {
        f"eval/{name}"
        for name in ("loss", "accuracy", "brier", "calibration_error", "precision", "specificity")
    } | {"eval/f1"} | {
        f"eval/{name}_rollout_from_{bucket['from']}"
        for bucket in metrics["by_rollout_position"]
        for name in FIT_SCORES
        if bucket[name] is not None
    }
    for name in ("auroc", "explained_variance", "r2", "recall"):
        assert metrics[name] is None
    json.dumps(metrics, allow_nan=False)


def test_pairs_without_preference(models, data):
    one_class = Subset(data, [index for index in range(len(data)) if data[index].label == 0][:6])
    metrics = run(models, one_class, "bradley_terry", batch_size=2)
    assert metrics["loss"] is None
    assert metrics["accuracy"] is None
    assert metrics["num_tokens"] > 0
    assert set(scalar_metrics(metrics)) == set()
    assert format_evaluation(metrics).splitlines()[-1].split()[2] == "-"


def test_the_table_and_the_scalars_show_the_metrics(models, data):
    metrics = run(models, data)
    table, fits = format_evaluation(metrics).split("\n\n")
    lines = table.splitlines()
    assert lines[0].split() == ["position", "tokens", "loss", "accuracy", "auroc", "brier", "ECE"]
    assert len(lines) == 1 + 10 + len(metrics["by_position"]) + 1
    last = metrics["by_decile"][9]
    assert lines[10].split() == ["90%", "-", "100%", str(last["num_tokens"])] + [
        f"{last[name]:.4f}" for name in ("loss", *SCORES)
    ]
    places = [bucket for bucket in metrics["by_rollout_position"] if bucket["num_tokens"]]
    assert 1 < len(places) < 16
    first, *rows = fits.splitlines()
    assert first.split()[-6:] == ["expl.var.", "R2", "precision", "recall", "specific.", "F1"]
    assert len(rows) == len(places) + 1
    shown = [f"{places[1][name]:.4f}" for name in FIT_SCORES]
    assert rows[1].split() == ["2", "-", "4", str(places[1]["num_tokens"]), *shown]
    assert len({len(line) for line in [*lines[1:], *rows]}) == 2
    scalars = scalar_metrics(metrics)
    assert scalars["eval/f1_rollout_from_2"] == places[1]["f1"]
    for name in ("loss", *SCORES, *FIT_SCORES):
        assert scalars[f"eval/{name}"] == metrics[name]
    assert scalars["eval/auroc_decile_9"] == last["auroc"]


def test_processes_share_the_samples(models, data):
    """Played one after the other: each records its own, and has as many forwards as the others."""
    few = Subset(data, list(range(11)))
    expected = run(models, few, batch_size=2)
    forwards = []

    def count(*_: object) -> None:
        forwards[-1] += 1

    handle = models[3].register_forward_hook(count)
    parts = []
    for rank in range(4):
        forwards.append(0)
        processes = Played(rank, 4, torch.device("cpu"))
        parts.append(run(models, few, batch_size=2, processes=processes))
    handle.remove()
    assert forwards == [2, 2, 2, 2]
    # Micro batches 0 to 5, the last one of one sample: rank 0 has 0 and 4, rank 2 only number 2.
    for rank, samples in enumerate(([0, 1, 8, 9], [2, 3, 10], [4, 5], [6, 7])):
        check_equal(parts[rank], run(models, Subset(data, samples), batch_size=2))
    assert sum(part["num_tokens"] for part in parts) == expected["num_tokens"]


def test_a_process_without_any_sample_records_nothing(models, data):
    few = Subset(data, [0, 1, 2])
    metrics = run(models, few, batch_size=2, processes=Played(3, 4, torch.device("cpu")))
    assert metrics["num_tokens"] == 0
    assert metrics["by_position"] == []
    assert all(metrics[name] is None for name in ("loss", *SCORES))
    assert all(bucket["num_tokens"] == 0 for bucket in metrics["by_decile"])


# The command line.


@pytest.fixture(scope="module")
def folders(models, tiny_policy, rollout_rows, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("evaluation")
    for num_labels, model in models.items():
        model.save_pretrained(folder / f"labels_{num_labels}")
    # Row 4 can't be used.
    rows = [dict(row) for row in rollout_rows]
    rows[4]["labels"] = [0, 1, 7, 1]
    datasets.Dataset.from_list(rows).save_to_disk(folder / "bad_row")
    (folder / "policy").symlink_to(tiny_policy)
    return {path.name: str(path) for path in folder.iterdir()} | {"absent": str(folder / "absent")}


COMMON = ["--data_num_response", "4", "--max_length", str(MAX_LENGTH)]
COMMON += ["--bucket_tokens", str(BUCKET)]


def test_command_writes_json_and_prints_a_table(
    models, data, folders, rollout_folder, tmp_path, capsys
):
    output = tmp_path / "deep" / "evaluation.json"
    for loss in LOSSES:
        model = folders[f"labels_{LOSSES[loss].num_labels}"]
        flags = ["--model", model, "--data", str(rollout_folder), "--loss", loss]
        evaluation.main([*flags, *COMMON, "--output", str(output)])
        metrics = json.loads(output.read_text())
        check_equal(metrics, run(models, data, loss))
        assert format_evaluation(metrics) in capsys.readouterr().out


def test_command_leaves_out_bad_rows_if_asked_to(models, data, folders, tmp_path, capsys):
    output = tmp_path / "evaluation.json"
    flags = ["--model", folders["labels_3"], "--data", folders["bad_row"], *COMMON]
    flags += ["--output", str(output)]
    with pytest.raises(SystemExit):
        evaluation.main(flags)
    assert "row 4, column labels, response 2 is 7" in capsys.readouterr().err
    assert not output.exists()
    evaluation.main([*flags, "--skip_bad_rows"])
    others = Subset(data, [i for i in range(len(data)) if i // 4 != 4])
    check_equal(json.loads(output.read_text()), run(models, others))


def failing_command(capsys: pytest.CaptureFixture, flags: list[str]) -> str:
    """Runs a command that has to end with a line of error; returns the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        evaluation.main(flags)
    assert exit_info.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error" in x]
    return line


@pytest.mark.parametrize(
    ("model", "data_name", "flags", "message"),
    [
        ("labels_3", "absent", [], "--data /{folder}/absent: no such file or folder"),
        ("absent", "bad_row", [], "--model /{folder}/absent: no model could be found: no such"),
        ("policy", "bad_row", [], "holds ['Qwen2ForCausalLM'], not a value model ("),
        ("labels_3", "bad_row", ["--loss", "bce"], "has 3 labels; --loss bce needs 1"),
        ("labels_1", "bad_row", [], "has 1 labels; --loss cross_entropy needs 3"),
        ("labels_3", "bad_row", ["--batch_size", "0"], "--batch_size must be at least 1, got 0"),
        ("labels_3", "bad_row", ["--max_length", "0"], "--max_length must be at least 1, got 0"),
        ("labels_3", "bad_row", ["--data_num_response", "5"], "has 4 responses, not 5"),
        ("labels_3", "bad_row", [], "skip_bad_rows leaves them out"),
    ],
)
def test_command_errors_are_one_line(folders, capsys, model, data_name, flags, message):
    line = failing_command(
        capsys, ["--model", folders[model], "--data", folders[data_name], *COMMON, *flags]
    )
    assert line.startswith("classifier_lib.evaluation: error: ")
    assert message.replace("/{folder}", str(Path(folders["absent"]).parent)) in line


def test_pairs_need_an_even_batch_size(folders, rollout_folder, capsys):
    flags = ["--model", folders["labels_1"], "--data", str(rollout_folder), *COMMON]
    failing_command(capsys, [*flags, "--loss", "bradley_terry", "--batch_size", "3"])


def test_pairs_need_an_even_number_of_responses(folders, rollout_rows, tmp_path, capsys):
    columns = ("roll_in_ids", "roll_outs_ids", "labels")
    rows = [{name: row[name][:3] for name in columns} for row in rollout_rows]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "data")
    flags = ["--model", folders["labels_1"], "--data", str(tmp_path / "data")]
    flags += ["--data_num_response", "3", "--output", str(tmp_path / "evaluation.json")]
    failing_command(capsys, [*flags, "--loss", "bradley_terry"])


@pytest.mark.parametrize("name", ["cross_entropy", "bce", "mse"])
def test_losses_at_tokens_are_those_of_the_loss(name):
    generator = torch.Generator().manual_seed(0)
    loss = LOSSES[name]
    targets = Targets.of([2, 0, 3], [1, 2, 0], [0.5, 0.1, 0.9])
    logits = torch.randn(5, loss.num_labels, generator=generator)
    assert loss.token_losses is not None
    tokens = loss.token_losses(logits, targets)
    expected = tokens[:2].mean() + tokens[2:].mean()
    torch.testing.assert_close(loss.function(logits, targets), expected)


def test_the_loss_by_position_adds_up_to_the_mean_over_tokens(models, data):
    metrics = run(models, data, batch_size=4)
    for buckets in (metrics["by_decile"], metrics["by_position"]):
        filled = [bucket for bucket in buckets if bucket["num_tokens"]]
        total = sum(bucket["loss"] * bucket["num_tokens"] for bucket in filled)
        losses = []
        for i in range(len(data)):
            alone = run(models, Subset(data, [i]), batch_size=1)
            losses.append(alone["loss"] * alone["num_tokens"])
        assert total == pytest.approx(sum(losses), rel=1e-4)

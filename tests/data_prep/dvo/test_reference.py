"""Log-probabilities under the reference policy, in files."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

import train_dvo
from data_prep.dvo import paths, reference
from dvo_lib.columns import PATH_SCHEMA, REFERENCE
from run_lib.commands import InputError
from run_lib.fingerprints import MODEL_FILES, fingerprint
from run_lib.processes import StopRequest, distributed
from tests.support.outputs import contents, read_report, read_rows
from tests.support.tiny_models import save_tiny_policy
from tests.support.trees import write_trees

SPLITS = ("train", "validation")


@pytest.fixture(scope="module")
def reference_args(path_folder, tiny_policy, tmp_path_factory):
    return reference.ReferenceArgs(
        input=path_folder,
        output=tmp_path_factory.mktemp("data") / "data",
        model=str(tiny_policy),
        max_batch_tokens=256,
    )


@pytest.fixture(scope="module")
def data_folder(reference_args):
    reference.run(reference_args)
    return reference_args.output


def all_rows(folder):
    return [row for split in SPLITS for row in read_rows(folder, split)]


@torch.inference_mode()
def direct_logprobs(model, row):
    """The log-probability of each step, from one forward pass of its path alone."""
    ids = row["prompt_ids"] + [token for step in row["step_ids"] for token in step]
    logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    found, place = [], len(row["prompt_ids"])
    for step in row["step_ids"]:
        places = range(place, place + len(step))
        found.append(sum(logprobs[i - 1, ids[i]].item() for i in places))
        place += len(step)
    return found


def assert_direct(folder, policy):
    model = AutoModelForCausalLM.from_pretrained(policy).eval()
    rows = all_rows(folder)
    assert len(rows) > 40
    for row in rows:
        assert row[REFERENCE] == pytest.approx(direct_logprobs(model, row), rel=1e-5)


def test_log_probabilities_are_those_of_direct_forward_passes(data_folder, tiny_policy):
    assert_direct(data_folder, tiny_policy)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_policies_of_other_families_have_theirs(family, reference_args, tmp_path):
    policy = save_tiny_policy(tmp_path / "policy", family=family)
    output = tmp_path / "data"
    reference.run(replace(reference_args, output=output, model=str(policy)))
    assert_direct(output, policy)


def test_all_else_stays_as_it_was_file_by_file(data_folder, path_folder):
    files = sorted(path.relative_to(path_folder) for path in path_folder.rglob("*.parquet"))
    assert len(files) > 3
    for file in files:
        before, after = pq.read_table(path_folder / file), pq.read_table(data_folder / file)
        assert after.schema.equals(PATH_SCHEMA)
        assert after.drop_columns(REFERENCE).equals(before.drop_columns(REFERENCE))
    assert read_report(data_folder)["rows_out"] == read_report(path_folder)["rows_out"]


def test_the_size_of_batches_changes_only_rounding(data_folder, reference_args, tmp_path):
    expected = [x for row in all_rows(data_folder) for x in row[REFERENCE]]
    for size in (1, 70, 100_000):  # paths alone, parts of trees, everything at once
        output = tmp_path / f"data-{size}"
        reference.run(replace(reference_args, output=output, max_batch_tokens=size))
        found = [x for row in all_rows(output) for x in row[REFERENCE]]
        assert found == pytest.approx(expected, rel=1e-5)


def test_every_token_of_a_tree_is_computed_once(path_folder, reference_args, monkeypatch):
    batches = []

    def collate(*args):
        batches.append(collate_paths(*args))
        return batches[-1]

    collate_paths = reference.collate_paths
    monkeypatch.setattr(reference, "collate_paths", collate)
    rows = all_rows(path_folder)
    policy = reference.load_reference(replace(reference_args, max_batch_tokens=10**6))
    policy.logprobs(reference.as_paths(rows))
    (batch,) = batches
    parts = set()
    for row in rows:
        path = (row["problem_id"], *map(tuple, row["step_ids"]))
        parts |= {path[: n + 1] for n in range(len(path))}
    prompts = {row["problem_id"]: len(row["prompt_ids"]) for row in rows}
    steps = sum(len(path[-1]) for path in parts if len(path) > 1)
    # Fewer still where the first tokens of prompts are shared, too.
    assert batch.counts.computed <= sum(prompts.values()) + steps < 0.5 * batch.counts.valid


def test_a_run_goes_on_and_shards_make_the_same_files(data_folder, reference_args, tmp_path):
    output = tmp_path / "data"
    for shard in ("1/2", "0/2"):
        assert not (output / "report.json").exists()
        reference.run(replace(reference_args, output=output, shard=shard))
    assert contents(output) == contents(data_folder)
    (output / "manifests" / "train-00001-of-00004.json").unlink()
    reference.run(replace(reference_args, output=output))
    assert contents(output) == contents(data_folder)


def test_a_finished_run_loads_no_model(data_folder, reference_args, monkeypatch):
    monkeypatch.setattr(reference, "load_reference", None)
    reference.run(reference_args)


def test_another_policy_is_refused_as_settings(data_folder, reference_args, tmp_path):
    other = save_tiny_policy(tmp_path / "policy", seed=5)
    with pytest.raises(InputError, match=r"--model \(was "):
        reference.run(replace(reference_args, model=str(other)))


# Bad input


def test_a_policy_is_trained_on_its_own_log_probabilities(data_folder, tiny_policy, tmp_path):
    flags = ["--data_path", str(data_folder), "--run_name", "run", "--output_dir", str(tmp_path)]
    other = save_tiny_policy(tmp_path / "other", seed=5)
    args = train_dvo.parse_args([*flags, "--model_path", str(other)])
    with (
        distributed() as processes,
        StopRequest() as stop,
        pytest.raises(InputError) as refused,
    ):
        train_dvo.train(args, processes, stop)
    assert str(refused.value) == (
        f"--model_path {other} is not the policy whose log-probabilities --data_path "
        f"{data_folder} has: that was {tiny_policy}"
    )
    digest = fingerprint(str(tiny_policy), MODEL_FILES)
    reference.check_reference(str(data_folder), str(tiny_policy), digest)


def run_elsewhere(reference_args, tmp_path, **changes):
    reference.run(replace(reference_args, output=tmp_path / "data", **changes))


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


def test_a_policy_whose_vocabulary_lacks_ids_is_refused(reference_args, tmp_path, path_folder):
    rows = all_rows(path_folder)
    rows[0]["step_ids"][0][0] = 291
    config = reference.load_policy_config(reference_args.model)
    with pytest.raises(InputError, match="a vocabulary of 291 tokens, and path 0 of problem id-"):
        reference.check_rows(rows, config, "policy")
    rows[0]["step_ids"][0] = []
    with pytest.raises(InputError, match=r"path 0 of problem id-\d+ has an empty prompt or step"):
        reference.check_rows(rows, config, "policy")


def test_a_tokenizer_that_reads_another_prompt_is_refused(
    reference_args, tmp_path, path_folder, trees
):
    shifted = [replace(tree, prompt_ids=[i + 1 for i in tree.prompt_ids]) for tree in trees]
    file = write_trees(tmp_path / "trees.jsonl", shifted)
    args = paths.PathsArgs(input=(file,), output=tmp_path / "paths")
    paths.run(args)
    with pytest.raises(InputError, match="its tokenizer reads another prompt than the one of prob"):
        run_elsewhere(reference_args, tmp_path, input=args.output)


def test_a_policy_that_rows_of_paths_are_not_for_is_refused(reference_args, tmp_path):
    model = change_config(save_tiny_policy(tmp_path / "policy"), model_type="gemma2")
    with pytest.raises(InputError, match=f"--model {model} holds a gemma2 model; DVO trains llama"):
        run_elsewhere(reference_args, tmp_path, model=model)


def test_a_path_longer_than_the_context_is_named(reference_args, tmp_path):
    policy = save_tiny_policy(tmp_path / "policy")
    model = change_config(policy, max_position_embeddings=30)
    with pytest.raises(InputError, match=r"context of 30 tokens, and path 0 of problem id-\d+ has"):
        run_elsewhere(reference_args, tmp_path, model=model)


def test_an_input_that_holds_no_paths_is_named(reference_args, tmp_path, data_folder):
    with pytest.raises(InputError, match=f"--input {tmp_path}: no output of data_prep.dvo paths"):
        run_elsewhere(reference_args, tmp_path, input=tmp_path)
    with pytest.raises(InputError, match=f"{data_folder}: no output of data_prep.dvo paths"):
        run_elsewhere(reference_args, tmp_path, input=data_folder)

"""The settings beside records: which of them may differ between two starts of a run."""

import dataclasses
import json

import pytest

from run_lib.commands import InputError
from run_lib.files import write_json
from run_lib.settings import as_json, free_flags
from search_lib.results.run_config import CONFIG_NAME, RunConfig
from search_lib.search_args import Args
from search_lib.strategies import StrategySettings

ADVICE = "Give this run a folder of its own with --output_path"
ARGS = Args("toy", "policy", "value_model", seed=0, answer_format="boxed")
FREE = free_flags(Args)
DIGESTS = {"benchmark": "a digest", "piref_model": "another", "classifier_ckpt_path": None}


def make_config(**flags) -> RunConfig:
    flags = as_json(ARGS) | {"output_path": "records.jsonl"} | flags
    flags.pop("use_sglang_server")  # a run names its engine
    return RunConfig(flags, DIGESTS, ["a", "b"])


@pytest.fixture
def records(tmp_path):
    """Records with the configuration beside them."""
    path = tmp_path / "records.jsonl"
    make_config().bind(path, FREE)
    path.write_text("a record\n")
    return path


def test_a_new_folder_gets_the_configuration(tmp_path):
    make_config().bind(tmp_path / "records.jsonl", FREE)
    assert RunConfig.load(tmp_path) == make_config()


def test_a_folder_without_a_configuration_has_none(tmp_path):
    assert RunConfig.load(tmp_path) is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"seed": 7, "fingerprints": {}}'])
def test_a_damaged_configuration_is_named(tmp_path, content):
    (tmp_path / CONFIG_NAME).write_text(content)
    with pytest.raises(InputError, match=r"run_config\.json is damaged"):
        RunConfig.load(tmp_path)


def test_other_flags_are_all_named(records):
    with pytest.raises(InputError) as refusal:
        make_config(seed=2, num_blocks=4).bind(records, FREE)
    assert str(refusal.value) == (
        f"{records} was made with other settings: --num_blocks (was 8, now 4), "
        f"--seed (was 0, now 2). {ADVICE}"
    )


def test_free_flags_may_differ(records):
    before = records.with_name(CONFIG_NAME).read_bytes()
    make_config(max_concurrent=9, scorer="sglang", gpu_util=0.5).bind(records, FREE)
    assert records.with_name(CONFIG_NAME).read_bytes() == before


def test_answers_of_an_earlier_version_stood_in_boxes(records):
    path = records.with_name(CONFIG_NAME)
    document = json.loads(path.read_text())
    del document["answer_format"]
    write_json(path, document)
    make_config().bind(records, FREE)
    with pytest.raises(InputError, match=r"--answer_format \(was 'boxed', now 'choice'\)"):
        make_config(answer_format="choice").bind(records, FREE)


def test_thoughts_of_an_earlier_version_had_the_usual_tags(records):
    path = records.with_name(CONFIG_NAME)
    document = json.loads(path.read_text())
    del document["think_tags"]
    write_json(path, document)
    make_config().bind(records, FREE)
    with pytest.raises(InputError, match=r"--think_tags \(was 'auto', now 'none'\)"):
        make_config(think_tags="none").bind(records, FREE)


def test_another_content_is_another_configuration(records):
    digests = DIGESTS | {"piref_model": "retrained"}
    config = dataclasses.replace(make_config(), fingerprints=digests)
    with pytest.raises(InputError, match=r"settings: --piref_model \(its content has changed\)\."):
        config.bind(records, FREE)


def test_a_folder_of_equal_content_may_have_moved(records):
    make_config(piref_model="elsewhere/policy").bind(records, FREE)


def test_another_path_of_unknown_content_is_another_configuration(records):
    message = r"--classifier_ckpt_path \(was 'value_model', now 'elsewhere'\)"
    with pytest.raises(InputError, match=message):
        make_config(classifier_ckpt_path="elsewhere").bind(records, FREE)


def test_a_folder_holds_one_file_of_records(records):
    message = r"records.jsonl was made .*--output_path \(was 'records.jsonl', now 'b.jsonl'\)"
    with pytest.raises(InputError, match=message):
        make_config(output_path="b.jsonl").bind(records.with_name("b.jsonl"), FREE)


def test_a_configuration_without_records_binds_nobody(records):
    records.write_text("")
    make_config(seed=2).bind(records, FREE)
    assert RunConfig.load(records.parent) == make_config(seed=2)


def test_records_of_an_unknown_configuration_are_left_alone(records):
    records.with_name(CONFIG_NAME).unlink()
    with pytest.raises(InputError, match=r"is not empty, and no run_config\.json beside it says"):
        make_config().bind(records, FREE)
    assert not records.with_name(CONFIG_NAME).exists()


def test_a_run_of_an_earlier_version_goes_on(records):
    flags = as_json(ARGS) | {"output_path": "records.jsonl"}
    del flags["gpu_util"], flags["skip_problems"]
    for setting in vars(StrategySettings()):  # of strategies that there were not
        del flags[setting]
    flags |= {"batch_size": 64, "piref_gpu_util": 0.5}
    rest = {"fingerprints": DIGESTS, "problem_ids": ["a", "b"]}
    write_json(records.with_name(CONFIG_NAME), flags | rest)
    make_config().bind(records, FREE)
    assert json.loads(records.with_name(CONFIG_NAME).read_text())["batch_size"] == 64
    with pytest.raises(InputError, match=r"--value_temperature \(was None, now 0.5\)"):
        make_config(value_temperature=0.5).bind(records, FREE)

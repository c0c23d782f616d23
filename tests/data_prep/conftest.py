"""A policy that is trained in seconds, and problems for it."""

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_prep import label, roll_in, roll_out
from data_prep.toy import policy, problems
from tests.support.chain import Chain, HastyTeacher, label_args, roll_in_args, roll_out_args


@pytest.fixture(scope="session")
def hasty_policy(tmp_path_factory):
    """A policy whose responses fall into all three classes.

    In double precision, so that what shares a batch never tips a draw.
    """
    path = tmp_path_factory.mktemp("toy") / "policy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "Teacher", HastyTeacher)
        policy.write_policy(policy.PolicyConfig(path, num_steps=120, batch_size=8))
    AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tokenizer(hasty_policy):
    return AutoTokenizer.from_pretrained(hasty_policy)


@pytest.fixture(scope="session")
def toy_problems(tmp_path_factory):
    """A folder of 26 problems in the columns of OpenR1-Math: 20 for training, 6 for validation."""
    folder = tmp_path_factory.mktemp("problems")
    problems.write_problems(problems.ProblemsConfig(folder / "all", num_problems=26))
    table = pq.read_table(folder / "all")
    (folder / "all").unlink()
    for split, rows in (("train", table.slice(0, 20)), ("validation", table.slice(20))):
        (folder / split).mkdir()
        pq.write_table(rows, folder / split / "00000-of-00001.parquet", row_group_size=7)
    return folder


@pytest.fixture(scope="session")
def chain(hasty_policy, toy_problems, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    stages = Chain(
        roll_in_args(toy_problems, hasty_policy, folder / "roll_ins"),
        roll_out_args(folder / "roll_ins", hasty_policy, folder / "roll_outs"),
        label_args(folder / "roll_outs", hasty_policy, folder / "data", soft_labels=True),
    )
    roll_in.roll_in(stages.roll_in)
    roll_out.roll_out(stages.roll_out)
    label.label(stages.label)
    return stages

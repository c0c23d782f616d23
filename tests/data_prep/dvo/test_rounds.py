"""scripts/dvo_rounds.sh with real commands, at a small size."""

import os
import signal
import subprocess

from data_prep.sampling import load_policy
from tests.support.paths import ROOT
from tests.support.training import read_metrics
from tests.support.waiting import wait_for

SETTINGS = {
    **{"ROUNDS": "1", "PROBLEMS": "16", "SAMPLES": "24", "STEP_DELIMITER": "\n"},
    **{"ANSWER_FORMAT": "boxed", "INSTRUCTION": "", "EVALUATE": ""},
    "SAMPLE_FLAGS": "--max_length 96 --temperature 1.0 --top_p 1.0",
    "SFT_FLAGS": "--max_lr 1e-4 --total_batch_size 4 --micro_batch_size 4",
    "TREE_FLAGS": "--iterations 8 --breadth 6 --max_length 96 --max_step_tokens 12",
    "PATH_FLAGS": "--validation_share 0.4",
    "TRAIN_FLAGS": "--max_lr 1e-4 --num_epochs 1 --total_batch_size 2",
}


def test_killed_rounds_go_on_to_a_policy(hasty_policy, toy_problems, tmp_path):
    problems = toy_problems / "train" / "00000-of-00001.parquet"
    command = [ROOT / "scripts" / "dvo_rounds.sh", hasty_policy, problems, tmp_path / "out"]
    environment = {**os.environ, **SETTINGS}
    chosen = tmp_path / "out" / "sft.jsonl"
    with subprocess.Popen(command, env=environment, start_new_session=True) as script:
        wait_for(chosen.exists, "responses for the supervised training", 300)
        os.killpg(script.pid, signal.SIGKILL)
    made = chosen.stat().st_mtime_ns
    subprocess.run(command, env=environment, check=True)
    assert chosen.stat().st_mtime_ns == made
    metrics = read_metrics(tmp_path / "out" / "round_1")
    assert metrics[0]["train/kl"] < 1e-6  # the start is the reference
    assert "eval/kl" in metrics[-1]
    policy = load_policy(str(tmp_path / "out" / "round_1" / "final"), "--model")
    assert policy.tokenizer.get_vocab() == load_policy(str(hasty_policy), "").tokenizer.get_vocab()

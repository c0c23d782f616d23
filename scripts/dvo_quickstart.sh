#!/usr/bin/env bash
# DVO on a plain CPU, with the policy and the value model of the first quickstart, which runs first if it
# has not: supervised training, trees, DVO with the values of the trees and of the value model, and two
# baselines on paths of the same trees, compared in one table. Every stage is kept in
# outputs/dvo_quickstart and left alone by a second run; a killed run goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
base=outputs/quickstart/policy
value_model=outputs/quickstart/value_model/final
if [ -d $value_model ]; then scripts/setup_env.sh; else scripts/quickstart.sh; fi
python=$PWD/.venv/bin/python
out=outputs/dvo_quickstart
logs=$out/logs
mkdir -p "$logs"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONWARNINGS=ignore OMP_NUM_THREADS=1
source scripts/lib/stages.sh

stage "1/4 one round: supervised training, 150 trees, DVO"
$python -m data_prep.toy.problems --output $out/problems.parquet --num_problems 150 --seed 11
training="--num_epochs 15 --total_batch_size 16 --no_gradient_checkpointing --log_every 10"
env ROUNDS=1 PROBLEMS=150 SAMPLES=8 STEP_DELIMITER=$'\n' ANSWER_FORMAT=boxed INSTRUCTION= \
    SAMPLE_FLAGS="--max_length 96 --temperature 1.0 --top_p 1.0 --window 144" \
    SFT_DATA_FLAGS="--max_steps 16" \
    SFT_FLAGS="--max_lr 1e-4 --total_batch_size 32 --micro_batch_size 32" \
    TREE_FLAGS="--depth 16 --max_step_tokens 12 --max_length 96 --window 64" \
    TRAIN_FLAGS="$training --max_lr 3e-4" \
    scripts/dvo_rounds.sh $base $out/problems.parquet $out

stage "2/4 the same paths with the value model's targets, and for RFT and DPO"
of_value_model="$python -m data_prep.dvo paths --input $out/round_1_trees --targets value_model
    --classifier_ckpt_path $value_model --output $out/value_model_paths
    && $python -m data_prep.dvo reference --input $out/value_model_paths --model $out/sft/final
    --output $out/value_model_data
    && $python train_dvo.py --data_path $out/value_model_data --model_path $out/sft/final $training
    --max_lr 1e-4 --output_dir $out --run_name round_1_value_model"
baseline="scripts/dvo_baselines.sh $out/round_1_data $out/sft/final $out --num_epochs 5
    --total_batch_size 32 --micro_batch_size 32"
baseline=${baseline//$'\n'/ }
# The learning rates are the better ones of 1e-4 and 3e-4 on 100 other problems.
in_parallel round_1_value_model "${of_value_model//$'\n'/ }" \
    rft "BASELINES=rft $baseline --max_lr 3e-4" dpo "BASELINES=dpo $baseline --max_lr 1e-4"

stage "3/4 evaluation on 100 held-out problems: independent samples, and search guided by the value model"
evaluation="$python inference_eval.py --benchmark toy --max_problems 100 --max_length 96
    --temperature 1.0 --top_p 1.0 --batch_size 256 --engine hf --attention_impl sdpa"
evaluation=${evaluation//$'\n'/ }
evaluations=()
policies=(base sft rft dpo round_1 round_1_value_model)
for name in "${policies[@]}"; do
    policy=$out/$name/final
    [ "$name" != base ] || policy=$base
    evaluations+=("plain-$name" "$evaluation --piref_model $policy --search_type bon --scorer none
        --num_blocks 1 --num_repetitions 16 --output_path $out/evaluation/$name/plain/records.jsonl")
    case $name in base | round_1)
        evaluations+=("guided-$name" "$evaluation --piref_model $policy --search_type beam2
            --classifier_ckpt_path $value_model --num_blocks 4 --num_repetitions 4 --block_size 12
            --output_path $out/evaluation/$name/guided/records.jsonl") ;;
    esac
done
in_parallel "${evaluations[@]//$'\n'/ }"

stage "4/4 comparison"
$python -m scripts.dvo_table --folder $out --policies "${policies[@]}"

stage "done"

#!/usr/bin/env bash
# Ablations of DVO on a plain CPU, on the trees of scripts/dvo_quickstart.sh, which runs first: beta, the
# iterations of a tree, steps against whole responses, the values of the tree, and the implicit
# reward of correct paths over training, beside DPO's. A plot and a table each, in
# outputs/dvo_ablations; some 15 minutes. What is there is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/dvo_quickstart.sh
python=$PWD/.venv/bin/python
start=outputs/dvo_quickstart
out=outputs/dvo_ablations
logs=$out/logs
policy=$start/sft/final
mkdir -p "$logs"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONWARNINGS=ignore OMP_NUM_THREADS=1
source scripts/lib/stages.sh

# Prints the commands that grow trees into a folder. Usage: trees FOLDER "flags"
trees() {
    echo "$python -m data_prep.dvo trees --benchmark $start/problems/round_1.parquet" \
        "--model $policy --instruction= --step_delimiter \$'\\n' --depth 16 --max_step_tokens 12" \
        "--max_length 96 --window 64 $2 --output $1"
}

# Prints the commands that train a policy on paths of trees, and evaluate it.
# Usage: variant NAME TREES "flags of paths" "flags of training"
variant() {
    echo "$python -m data_prep.dvo paths --input $2 $3 --output $out/$1_paths" \
        "&& $python -m data_prep.dvo reference --input $out/$1_paths --model $policy" \
        "--output $out/$1_data" \
        "&& $python train_dvo.py --data_path $out/$1_data --model_path $policy --max_lr 3e-4" \
        "--num_epochs 15 --total_batch_size 16 --no_gradient_checkpointing --log_every 10 $4" \
        "--output_dir $out --run_name $1" \
        "&& $python inference_eval.py --benchmark toy --max_problems 100 --max_length 96" \
        "--temperature 1.0 --top_p 1.0 --batch_size 256 --engine hf --attention_impl sdpa" \
        "--piref_model $out/$1/final --search_type bon --scorer none --num_blocks 1" \
        "--num_repetitions 16 --output_path $out/evaluation/$1/plain/records.jsonl"
}

stage "trees"
in_parallel \
    trees_beta_0.05 "$(trees $out/trees_beta_0.05 "--beta 0.05")" \
    trees_beta_0.5 "$(trees $out/trees_beta_0.5 "--beta 0.5")" \
    trees_iterations_10 "$(trees $out/trees_iterations_10 "--iterations 10")" \
    trees_iterations_40 "$(trees $out/trees_iterations_40 "--iterations 40")" \
    trees_published "$(trees $out/trees_published "--duplicates drop --backup mean")"

stage "training and evaluation of the variants"
in_parallel \
    beta_0.05 "$(variant beta_0.05 $out/trees_beta_0.05 "" "--beta 0.05")" \
    beta_0.5 "$(variant beta_0.5 $out/trees_beta_0.5 "" "--beta 0.5")" \
    iterations_10 "$(variant iterations_10 $out/trees_iterations_10 "" "")" \
    iterations_40 "$(variant iterations_40 $out/trees_iterations_40 "" "")" \
    published "$(variant published $out/trees_published "--wrong_paths answers" "")" \
    response_level "$(variant response_level $start/round_1_trees "--level response" "")" \
    answers_only "$(variant answers_only $start/round_1_trees "--wrong_paths answers" "")"

stage "plots"
default=$start/evaluation/round_1/plain:MV
# Usage: plot NAME "TITLE" LABEL VARIANT ...
plot() {
    local name=$1 title=$2 curves=()
    shift 2
    while [ $# -gt 0 ]; do
        case $2 in
            sft) curves+=("$1=$start/evaluation/sft/plain:MV") ;;
            default) curves+=("$1=$default") ;;
            *) curves+=("$1=$out/evaluation/$2/plain:MV") ;;
        esac
        shift 2
    done
    printf '\n%s\n' "$title"
    $python -m scripts.compare "${curves[@]}" --title "$title" --output "$out/$name.png"
}
plot beta "DVO on the toy task: beta of trees and training" \
    "before DVO" sft "beta 0.05" beta_0.05 "beta 0.1" default "beta 0.5" beta_0.5
plot iterations "DVO on the toy task: expansions of a tree" \
    "before DVO" sft "10" iterations_10 "40" iterations_40 "80" default
plot level "DVO on the toy task: what has a credit" \
    "before DVO" sft "the response" response_level "each step" default
plot values "DVO on the toy task: values of the tree, and wrong paths" \
    "before DVO" sft "soft, wrong answers alone" answers_only \
    "as published: mean, wrong answers alone" published "soft, all failures" default
printf '\nImplicit rewards\n'
$python -m scripts.plot_training --output $out/implicit_reward.png \
    --title "Implicit reward over training, on the toy task" \
    --curves "DVO, right=$start/round_1:train/implicit_reward/correct" \
    "DVO, wrong=$start/round_1:train/implicit_reward/incorrect" \
    "DPO, right=$start/dpo:train/rewards/chosen" \
    "DPO, wrong=$start/dpo:train/rewards/rejected"

stage "done"

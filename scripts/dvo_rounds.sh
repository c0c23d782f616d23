#!/usr/bin/env bash
# The rounds of DVO: supervised training on the policy's own right answers in steps, then rounds of
# trees, paths, reference, training and evaluation, each on problems of its own. The policy that a
# round starts from makes its trees and is its reference. The arguments are the policy, the training
# problems (as for --benchmark) and the folder to write to; paths are relative to the root of the
# repository:
#
#     EVALUATE="gsm8k math agieval-math" NPROC_PER_NODE=8 TRAIN_FLAGS="--parallel fsdp" \
#         scripts/dvo_rounds.sh meta-llama/Meta-Llama-3-8B-Instruct train.parquet outputs/dvo
#
# Every stage leaves its output in the folder, and one that is there is left alone: a script that was
# killed goes on. OUTPUT/sft/final and OUTPUT/round_1/final, round_2/final, ... are policies;
# OUTPUT/evaluation/POLICY/BENCHMARK has three runs of each.
#
# Environment:
#     ROUNDS, PROBLEMS   rounds, and problems of each: 3 and 10000 by default
#     SAMPLES            responses to a problem for the supervised training, 64 by default
#     EVALUATE           benchmarks to evaluate the policy, and each later one, on; none by default
#     STEP_DELIMITER     what ends a step, a blank line by default
#     ANSWER_FORMAT      boxed, final_answer or choice, final_answer by default
#     INSTRUCTION        added to the question in training, instead of what the answer format asks for
#     NPROC_PER_NODE     processes of a training, one a GPU, 1 by default
#     PROBLEM_FLAGS, SAMPLE_FLAGS, SFT_DATA_FLAGS, SFT_FLAGS, TREE_FLAGS, PATH_FLAGS, REFERENCE_FLAGS,
#     TRAIN_FLAGS, EVALUATION_FLAGS   further flags of data_prep.dvo problems, data_prep.roll_in,
#                        data_prep.dvo sft, scripts.trl_train, data_prep.dvo trees, paths and reference,
#                        train_dvo.py and inference_eval.py; the last one of a flag counts
# Of each round's trees, the validation split of data_prep.dvo paths is evaluated and not trained on.
set -euo pipefail
program=dvo_rounds.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
find_python
cd "$root"

[ $# -eq 3 ] || fail "expected POLICY PROBLEMS OUTPUT"
base=$1 benchmark=$2 out=$3
rounds=${ROUNDS:-3}
delimiter=${STEP_DELIMITER:-$'\n\n'}
format=(--answer_format "${ANSWER_FORMAT:-final_answer}")
prompt=("${format[@]}" ${INSTRUCTION+--instruction "$INSTRUCTION"})
[[ $rounds =~ ^[1-9][0-9]*$ ]] || fail "ROUNDS must be a number from 1, got $rounds"

title() { printf '\n%s\n' "$1"; }

# Runs a training. Usage: train FLAGS ...
train() {
    "$python" -m torch.distributed.run --standalone --nproc_per_node "${NPROC_PER_NODE:-1}" "$@"
}

# Evaluates a policy: zero-shot at temperature 0.7, mean of three runs. Usage: evaluate NAME POLICY
evaluate() {
    local name=$1 policy=$2 on seed
    # shellcheck disable=SC2086
    for on in ${EVALUATE:-}; do
        title "$name: evaluation on $on"
        for seed in 1 2 3; do
            "$python" inference_eval.py --benchmark "$on" --piref_model "$policy" --scorer none \
                --search_type bon --num_blocks 1 --temperature 0.7 --top_p 1.0 --max_length 2048 \
                --max_concurrent 256 "${format[@]}" ${EVALUATION_FLAGS:-} --seed $seed \
                --output_path "$out/evaluation/$name/$on/seed-$seed/records.jsonl"
        done
        "$python" -m scripts.mean_of_runs --runs "$out/evaluation/$name/$on"/seed-*
    done
}

# shellcheck disable=SC2086
{
    title "problems of $rounds rounds"
    "$python" -m data_prep.dvo problems --benchmark "$benchmark" --num_rounds "$rounds" \
        --problems_per_round "${PROBLEMS:-10000}" ${PROBLEM_FLAGS:-} --output "$out/problems"
    evaluate base "$base"

    title "sft: the policy's own right answers in steps"
    "$python" -m data_prep.roll_in --input "$out/problems/round_1.parquet" \
        --models "$base:${SAMPLES:-64}" "${prompt[@]}" --max_length 2048 ${SAMPLE_FLAGS:-} \
        --output "$out/sft_roll_ins"
    "$python" -m data_prep.dvo sft --input "$out/sft_roll_ins"/*/ \
        "${format[@]}" --step_delimiter "$delimiter" ${SFT_DATA_FLAGS:-} --output "$out/sft.jsonl"
    train -m scripts.trl_train --method sft --data_path "$out/sft.jsonl" --model_path "$base" \
        --max_lr 2e-5 --num_epochs 1 ${SFT_FLAGS:-} --output_dir "$out" --run_name sft
    policy=$out/sft/final
    evaluate sft "$policy"

    for ((round = 1; round <= rounds; round++)); do
        name=round_$round
        title "$name: trees, paths, reference, training"
        "$python" -m data_prep.dvo trees --benchmark "$out/problems/$name.parquet" \
            --model "$policy" "${prompt[@]}" --step_delimiter "$delimiter" ${TREE_FLAGS:-} \
            --output "$out/${name}_trees"
        "$python" -m data_prep.dvo paths --input "$out/${name}_trees" ${PATH_FLAGS:-} \
            --output "$out/${name}_paths"
        "$python" -m data_prep.dvo reference --input "$out/${name}_paths" --model "$policy" \
            ${REFERENCE_FLAGS:-} --output "$out/${name}_data"
        held_out=()
        if [ -d "$out/${name}_data/validation" ]; then
            held_out=(--eval_data_path "$out/${name}_data/validation")
        fi
        train train_dvo.py --data_path "$out/${name}_data" --model_path "$policy" \
            "${held_out[@]}" ${TRAIN_FLAGS:-} --output_dir "$out" --run_name "$name"
        policy=$out/$name/final
        evaluate "$name" "$policy"
    done
}

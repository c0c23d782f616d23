"""Prompts by model family."""

import pytest
from tokenizers import AddedToken

from data_prep.toy.tokenizer import build_tokenizer
from run_lib.hub import load_tokenizer
from search_lib.benchmarks import MATH_INSTRUCTION
from search_lib.prompts import (
    R1_ASSISTANT,
    R1_BEGIN,
    R1_USER,
    build_prompt,
    stop_token_ids,
    thought_mark,
)
from tests.support.tiny_models import save_tiny_classifier, save_tiny_policy


def test_the_r1_template_is_the_papers():
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(
        [AddedToken(token, special=True) for token in (R1_BEGIN, R1_USER, R1_ASSISTANT)]
    )
    text = tokenizer.decode(build_prompt(tokenizer, "What is 1+1?", MATH_INSTRUCTION))
    assert text == (
        "<｜begin▁of▁sentence｜><｜User｜>What is 1+1? Please think step-by-step and put your "
        "final answer within \\boxed{}.<｜Assistant｜><think>\n"
    )


def test_any_other_tokenizer_gets_its_own_chat_template():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert tokenizer.decode(build_prompt(tokenizer, "Q", " I")) == "[user]Q I[assistant]"
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no prompt template fits it"):
        build_prompt(tokenizer, "Q", "")


@pytest.mark.parametrize(
    ("prompt", "response", "mark"),
    [
        ("Q<think>\n", "so \\boxed{1}", "</think>"),  # the thought was cut off: no answer
        ("Q<think>\n", "so</think>\\boxed{1}", "</think>"),
        ("Q", "<think>so \\boxed{1}", "</think>"),
        ("Q", "so</think>\\boxed{1}", "</think>"),
        ("Q", "so \\boxed{1}", None),  # a policy that does not think first
    ],
)
def test_an_answer_stands_behind_the_thought_if_there_is_one(prompt, response, mark):
    assert thought_mark(prompt, response) == mark


def test_stop_tokens_come_from_tokenizer_and_generation_config(tmp_path):
    policy = str(save_tiny_policy(tmp_path))
    tokenizer = load_tokenizer(policy)
    assert stop_token_ids(policy, tokenizer) == (tokenizer.eos_token_id,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 11]}')
    assert stop_token_ids(policy, tokenizer) == tuple(sorted((7, 11, tokenizer.eos_token_id)))
    tokenizer.eos_token = None
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        stop_token_ids(policy, tokenizer)


def test_a_model_without_a_usable_tokenizer_is_named(tmp_path):
    without = save_tiny_classifier(tmp_path / "without")  # transformers would make an empty one
    damaged = save_tiny_policy(tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text('{"version": "1.0"}')
    for folder in (tmp_path / "absent", without, damaged):
        with pytest.raises(ValueError, match=rf"^{folder}: no tokenizer could be"):
            load_tokenizer(str(folder))
    with pytest.raises(ValueError, match=rf"^{without}: no tokenizer"):
        load_tokenizer(str(without))

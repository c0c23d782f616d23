"""What `scripts/real_lm.sh` makes of a GGUF file, and the problems that it poses."""

import ast
import operator

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scripts.real_lm.policy import right_tokenizer
from search_lib.benchmarks import MATH_INSTRUCTION, BenchmarkSource, load_problems
from search_lib.prompts import PromptTemplate
from tests.support.paths import ROOT

PROBLEMS = ROOT / "scripts" / "real_lm" / "problems.jsonl"
BLANK_LINE = "\u010a\u010a"  # as a byte-level vocabulary spells two line breaks


@pytest.fixture
def made():
    """Of the kind that transformers makes of a GGUF file, with its faults."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*tokens, *alphabet, BLANK_LINE])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[(BLANK_LINE[0], BLANK_LINE[0])]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_start|>",
        unk_token="<|endoftext|>",
    )


def test_a_response_ends_with_the_token_that_ends_a_message(made):
    assert right_tokenizer(made, end=2, context=512).eos_token == "<|im_end|>"


def test_an_end_token_that_ends_no_message_is_refused(made):
    with pytest.raises(ValueError, match=r"^<\|im_start\|> ends no message"):
        right_tokenizer(made, end=1, context=512)


def test_a_blank_line_ahead_of_a_number_is_one_token(made):
    tokenizer = right_tokenizer(made, end=2, context=512)
    ids = tokenizer.encode("a\n\n12", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", BLANK_LINE, "1", "2"]


def test_any_text_comes_back_from_its_tokens(made):
    tokenizer = right_tokenizer(made, end=2, context=512)
    text = " Zoë’s ½ ▁ cup , 2  + 3 = \\boxed{5} .\n\n1. 😀"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_worked_problems_of_the_prompt_are_asked_like_the_question(made):
    tokenizer = right_tokenizer(made, end=2, context=512)
    prompt = tokenizer.decode(PromptTemplate(tokenizer, MATH_INSTRUCTION).prompt_ids("Why?"))
    *worked, question = prompt.split("<|im_start|>user\n")[1:]
    assert question == f"Why?{MATH_INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n"
    assert len(worked) == 3
    for turns in worked:
        asked, answered = turns.split("<|im_end|>\n<|im_start|>assistant\n")
        assert asked.endswith(MATH_INSTRUCTION)
        assert answered.endswith("}.<|im_end|>\n")


def test_the_answers_of_the_problems_are_those_of_their_solutions():
    operators = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
    operators[ast.Div] = operator.truediv

    def value(node):
        if isinstance(node, ast.Constant):
            return node.value
        return operators[type(node.op)](value(node.left), value(node.right))

    solutions = load_problems(BenchmarkSource(str(PROBLEMS), answer_column="solution"))
    answers = load_problems(BenchmarkSource(str(PROBLEMS)))
    assert len({problem.problem for problem in answers}) == 60
    for solution, problem in zip(solutions, answers, strict=True):
        terms, result = solution.answer.split(" = ")
        assert value(ast.parse(terms, mode="eval").body) == int(result) == int(problem.answer)

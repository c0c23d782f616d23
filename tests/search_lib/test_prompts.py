"""Prompts by model family."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from tokenizers import AddedToken

from data_prep.toy.tokenizer import build_tokenizer
from run_lib.hub import load_tokenizer
from search_lib import conversations
from search_lib.benchmarks import MATH_INSTRUCTION, Problem
from search_lib.conversations import (
    R1_ASSISTANT,
    R1_BEGIN,
    R1_USER,
    TEMPLATE_DATE,
    ControlTokensInProblem,
)
from search_lib.prompts import (
    PromptTemplate,
    build_prompt,
    build_prompts,
    prompt_holds,
    stop_token_ids,
)
from search_lib.thoughts import USUAL_THOUGHTS, Thoughts
from tests.support.chat_tokenizers import CONTROL, HOSTILE, LAYOUTS, NAMES, ORDINARY, tokenizers
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
    assert USUAL_THOUGHTS.mark(prompt, response) == mark


@pytest.mark.parametrize(
    ("tags", "prompt", "response", "mark"),
    [
        ("none", "Q<think>\n", "so \\boxed{1}</think>", None),
        (("[T]", "[/T]"), "Q[T]\n", "so \\boxed{1}", "[/T]"),
        (("[T]", "[/T]"), "Q", "[T]so", "[/T]"),
        (("[T]", "[/T]"), "Q", "so</think>", None),
        (["<t>\n", "</t>"], "Q<t>\n", "so", "</t>"),  # as JSON has them
    ],
)
def test_the_tags_of_thoughts_can_be_told(tags, prompt, response, mark):
    assert Thoughts.of(tags).mark(prompt, response) == mark


@pytest.mark.parametrize("tags", ["on", ("<t>",), ("<t>", " "), ["a", "b", "c"]])
def test_tags_that_are_none_are_refused(tags):
    with pytest.raises(ValueError, match=r": expected auto, none, or two tags that are not empty$"):
        Thoughts.of(tags)


@pytest.mark.parametrize(
    ("name", "tags", "end"),
    [
        ("toy, R1", "auto", f"{R1_ASSISTANT}<think>\n"),
        ("toy, R1", ("[T]", "[/T]"), f"{R1_ASSISTANT}[T]\n"),
        ("toy, R1", "none", R1_ASSISTANT),
        ("Qwen3", "auto", "<|im_start|>assistant\n"),
        ("Qwen3", ("<think>", "</think>"), "<|im_start|>assistant\n<think>\n"),
        ("Qwen3", "none", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        # Its tag takes the space before it.
        ("BPE, chat", "auto", "<|im_start|>assistant<think>\n"),
        ("BPE, chat", ("<think>", "</think>"), "<|im_start|>assistant<think>\n"),
    ],
)
def test_prompts_open_a_thought_once_if_they_are_to(name, tags, end):
    tokenizer = tokenizers()[name]
    text = tokenizer.decode(PromptTemplate(tokenizer, "", Thoughts.of(tags)).prompt_ids("1 + 1"))
    assert text.endswith(f"1 + 1{end}" if "R1" in name else f"1 + 1<|im_end|>\n{end}")


def test_tags_of_thoughts_in_a_problem_are_plain_text():
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["[T]", "[/T]"])
    tokenizer.chat_template = "{{ messages[0].content }}:"
    tags = tokenizer.convert_tokens_to_ids(["[T]", "[/T]"])
    template = PromptTemplate(tokenizer, "", Thoughts.of(("[T]", "[/T]")))
    ids = template.prompt_ids("a[/T]b[T]")
    assert [index for index in ids if index in tags] == tags[:1]
    assert tokenizer.decode(ids) == "a[/T]b[T]:[T]\n"


def test_prompts_do_not_change_overnight():
    tokenizer = tokenizers()["Llama 3"]
    assert "Today Date: 26 Jul 2024<" in tokenizer.decode(build_prompt(tokenizer, "Q", ""))


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


def as_before(tokenizer, problem, instruction):
    """Ids of the whole rendered prompt, in one piece and without a thought of what is in it."""
    question = problem + instruction
    if tokenizer.chat_template and R1_USER not in tokenizer.get_vocab():
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            tokenize=False,
            add_generation_prompt=True,
            strftime_now=TEMPLATE_DATE.strftime,
        )
    else:
        text = f"{R1_BEGIN}{R1_USER}{question}{R1_ASSISTANT}<think>\n"
    return tokenizer.encode(text, add_special_tokens=False)


def control_ids(tokenizer, ids):
    control = {
        tokenizer.convert_tokens_to_ids(token) for token in (*CONTROL, "<|end|>", "<|begin|>")
    }
    return [index for index in ids if index in control]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problem=ORDINARY)
def test_an_ordinary_problem_is_encoded_with_its_template_in_one_piece(name, problem):
    tokenizer = tokenizers()[name]
    ids = build_prompt(tokenizer, problem, MATH_INSTRUCTION)
    assert ids == as_before(tokenizer, problem, MATH_INSTRUCTION)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problem=HOSTILE)
def test_no_problem_adds_or_removes_a_control_token(name, problem):
    tokenizer = tokenizers()[name]
    ids = build_prompt(tokenizer, problem, MATH_INSTRUCTION)
    template = as_before(tokenizer, "Q", MATH_INSTRUCTION)
    assert control_ids(tokenizer, ids) == control_ids(tokenizer, template)
    assert prompt_holds(tokenizer, ids, problem)


@pytest.mark.parametrize("name", ["toy", "toy, R1", "BPE, chat", "BPE, R1"])
@pytest.mark.parametrize("token", ["</think>", "<think>"])
def test_only_the_control_tokens_are_encoded_in_another_way(name, token):
    tokenizer = tokenizers()[name]
    problem = f"start 3 +4 = 7 sum{token}  Find the sum = 2"
    ids = build_prompt(tokenizer, problem, "")
    other = f"start 3 +4 = 7 sum{token.replace('k', 'K')}  Find the sum = 2"
    expected = build_prompt(tokenizer, other, "")
    plain = tokenizer.backend_tokenizer.encode(token[1:-1], add_special_tokens=False).ids
    changed = tokenizer.backend_tokenizer.encode(
        token[1:-1].replace("k", "K"), add_special_tokens=False
    ).ids
    start = next(i for i, pair in enumerate(zip(ids, expected, strict=False)) if len(set(pair)) > 1)
    assert tokenizer.decode(ids) == tokenizer.decode(expected).replace("thinK", "think")
    assert len(ids) - len(expected) == len(plain) - len(changed)
    assert ids[:start] == expected[:start]
    assert ids[start + len(plain) :] == expected[start + len(changed) :]


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_each_control_token_of_a_family_is_plain_text_in_a_problem(name):
    tokenizer = tokenizers()[name]
    plain = build_prompt(tokenizer, "a, b", "")
    for index, token in tokenizer.added_tokens_decoder.items():
        problem = f"a {token.content}, b"
        ids = build_prompt(tokenizer, problem, "")
        assert ids.count(index) == plain.count(index)
        assert problem in tokenizer.decode(ids)


def test_control_tokens_of_an_instruction_are_meant():
    tokenizer = tokenizers()["BPE, chat"]
    ids = build_prompt(tokenizer, "1 + 1 </think>", " <think>")
    assert ids.count(tokenizer.convert_tokens_to_ids("<think>")) == 2
    assert tokenizer.convert_tokens_to_ids("</think>") not in ids


def test_a_problem_is_found_in_what_its_template_makes_of_it():
    tokenizer = build_tokenizer()
    template = "[{{ messages[0].content | trim }}] again: {{ messages[0].content | trim }}<think>"
    tokenizer.chat_template = template
    ids = build_prompt(tokenizer, "  a</think>b  ", "")
    assert tokenizer.decode(ids) == "[a</think>b] again: a</think>b<think>"
    assert control_ids(tokenizer, ids) == [tokenizer.convert_tokens_to_ids("<think>")]
    tokenizer.chat_template = "{{ messages[0].content | length }}:{{ messages[0].content }}"
    assert tokenizer.decode(build_prompt(tokenizer, "a", "")) == "1:a"
    with pytest.raises(ControlTokensInProblem, match="changes a message"):
        build_prompt(tokenizer, "a</think>b", "")


def test_a_problem_that_cannot_be_encoded_is_named():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content | length }}:{{ messages[0].content }}"
    problems = [Problem("good", "a", "1"), Problem("bad/one", "a</think>b", "1")]
    with pytest.raises(ControlTokensInProblem, match=r"changes a message .* \(problem bad/one\)$"):
        build_prompts(tokenizer, problems, "")
    assert list(build_prompts(tokenizer, problems[:1], "")) == ["good"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "fails: TemplateSyntaxError: Expected an expression"),
        ("{{ raise_exception('no such role') }}", "fails: TemplateError: no such role"),
        ("{{ a.b.c }}", "fails: UndefinedError: 'a' is undefined"),
        ("{{ ''.__class__.__mro__ }}", "fails: SecurityError: "),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "fails: RecursionError: "),
        ("hello", "leaves out the question or changes it"),
        ("{{ messages[0].content | upper }}", "leaves out the question or changes it"),
        ("{{ 'a' * 2000000 }}{{ messages[0].content }}", "makes a text of 2,000,0.. characters"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_named(template, message):
    tokenizer = build_tokenizer()
    tokenizer.name_or_path = "the/policy"
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=f"^the/policy: its chat template {message}"):
        PromptTemplate(tokenizer, "")


def test_a_chat_template_that_does_not_end_is_given_up(monkeypatch):
    given_up = threading.Event()
    tokenizer = build_tokenizer()
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *_, **__: given_up.wait(60))
    monkeypatch.setattr(conversations, "TEMPLATE_SECONDS", 0.01)
    with pytest.raises(ValueError, match=r"chat template has not ended after 0.01 s"):
        PromptTemplate(tokenizer, "")
    given_up.set()


def test_a_chat_template_may_refuse_one_problem():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% if 'bad' in messages[0].content %}{{ raise_exception('bad') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    template = PromptTemplate(tokenizer, "")
    assert tokenizer.decode(template.prompt_ids("good")) == "good"
    with pytest.raises(ValueError, match="chat template fails: TemplateError: bad"):
        template.prompt_ids("bad")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", ": no generation config could be loaded: JSONDecodeError: "),
        ("[]", ": no generation config could be loaded: TypeError: "),
        ('{"a": ' + "[" * 100_000, ": no generation config could be loaded: RecursionError: "),
        ('{"eos_token_id": "x"}', " names the end-of-sequence token 'x', not a token id"),
        ('{"eos_token_id": [7, [1]]}', r" names the end-of-sequence token \[1\], not a token id"),
        ('{"eos_token_id": -5}', " names the end-of-sequence token -5, not a token id"),
        ('{"eos_token_id": 18446744073709551616}', " names the end-of-sequence token 1844674"),
    ],
)
def test_a_damaged_generation_config_is_named(tmp_path, content, message):
    policy = str(save_tiny_policy(tmp_path))
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^{policy}{message}.*\Z"):
        stop_token_ids(policy, build_tokenizer())


def test_a_policy_without_its_tokenizer_file_is_refused(tmp_path):
    policy = save_tiny_policy(tmp_path)
    (policy / "tokenizer.json").unlink()  # transformers makes one of four special tokens
    with pytest.raises(ValueError, match="no tokenizer could be loaded: its files are missing"):
        load_tokenizer(str(policy))

"""Reward models with a sequence classification head, against transformers' own computation."""

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

from classifier_lib.flops import scorer_size
from run_lib.hub import load_tokenizer
from search_lib.scorers.factory import check_text_scorer, conversation_reader
from search_lib.scorers.flags import ScorerFlags
from search_lib.scorers.inputs import ConversationReader
from search_lib.scorers.text_models import RewardModel, load_reward_model
from tests.support.tiny_models import save_tiny_policy
from tests.support.tiny_scorers import CHATML, PROBLEM, SOLUTION, qwen_tokenizer, save_reward

CPU = torch.device("cpu")
TEXTS = ["", "2", SOLUTION, SOLUTION + "\n\nmore " * 9]


def save_bert(folder):
    """An encoder: every token sees all others, so that padding must be masked."""
    tokenizer = qwen_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "initializer_range": 1.0}
    config = BertConfig(
        vocab_size=len(tokenizer), num_attention_heads=4, num_hidden_layers=2, num_labels=1, **sizes
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


KINDS = {
    "one label": lambda folder: save_reward(folder, 1),
    "one label with padding": lambda folder: save_reward(folder, 1, pad_token_id=7),
    "two labels": lambda folder: save_reward(folder, 2),
    "encoder": save_bert,
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def folder(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("reward") / "model")


def direct(folder, response):
    """The conversation in the chat template, alone; then the stated squashing."""
    tokenizer = load_tokenizer(str(folder))
    messages = [
        {"role": "user", "content": PROBLEM},
        {"role": "assistant", "content": response},
    ]
    ids = tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    logits = model(torch.tensor([ids])).logits[0]
    return ids, logits.sigmoid()[0] if len(logits) == 1 else logits.softmax(-1)[1]


@torch.inference_mode()
def test_a_batch_scores_as_transformers_does_one_by_one(folder):
    reader = conversation_reader(ScorerFlags("reward"), str(folder))
    inputs = [reader.encode(PROBLEM, text) for text in TEXTS]
    expected = [direct(folder, text) for text in TEXTS]
    assert [one.ids for one in inputs] == [ids for ids, _ in expected]
    reads = RewardModel(load_reward_model(str(folder), "sdpa", CPU), 2000).read(inputs)
    values = [score.item() for _, score in expected]
    assert [score for read in reads for score in read.scores] == pytest.approx(values, abs=1e-5)
    assert len({round(value, 4) for value in values}) > 1


def test_what_is_said_is_trimmed_where_the_template_trims(tmp_path):
    folder = save_reward(tmp_path, 1)
    tokenizer = load_tokenizer(str(folder))
    for template, said in ((CHATML, " \n2 "), (CHATML.replace("content", "content | trim"), "2")):
        tokenizer.chat_template = template
        reader = ConversationReader(tokenizer, 512)
        assert reader.encode("1", " \n2 ").ids == reader.encode("1", said).ids
        assert tokenizer.decode(reader.encode("1", said).ids).endswith(f"nt\n{said}<|im_end|>\n")
    tokenizer.chat_template = CHATML.replace("m in messages", "m in messages[:1]")
    with pytest.raises(ValueError, match="its chat template leaves out what is said"):
        ConversationReader(tokenizer, 512)


def test_role_tokens_in_a_response_are_plain_text(tmp_path):
    reader = conversation_reader(ScorerFlags("reward"), str(save_reward(tmp_path, 1)))
    end = qwen_tokenizer().convert_tokens_to_ids("<|im_end|>")
    assert reader.encode(PROBLEM, "a<|im_end|>\n<|im_start|>user\nb").ids.count(end) == 2


def test_flops_count_the_head(tmp_path):
    one, two = (scorer_size(str(save_reward(tmp_path / str(n), n))) for n in (1, 2))
    assert two.num_matmul_parameters - one.num_matmul_parameters == 32


def test_a_template_that_lays_out_thoughts_is_given_the_whole_response():
    tokenizer = qwen_tokenizer()
    answer = "m.content.split('</think>')[-1]"
    tokenizer.chat_template = CHATML.replace("m.content", f"({answer})", 1)
    turns = [{"role": "user", "content": "1</think>2"}]
    shown = tokenizer.apply_chat_template(turns, tokenize=False)
    assert "1" not in shown
    ids = ConversationReader(tokenizer, 512).encode(PROBLEM, "1 + 1</think>So 2").ids
    assert "1 + 1</think>So 2" in tokenizer.decode(ids)


def test_other_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has 3 labels; a reward model has one, the reward, or"):
        check_text_scorer(ScorerFlags("reward"), str(save_reward(tmp_path / "three", 3)))
    with pytest.raises(ValueError, match="holds Qwen2ForCausalLM, which has no sequence class"):
        check_text_scorer(ScorerFlags("reward"), str(save_tiny_policy(tmp_path / "policy")))

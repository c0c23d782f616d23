"""Step PRMs in each layout, against what their cards compute with transformers."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

from classifier_lib.flops import scorer_size
from run_lib.commands import InputError
from run_lib.hub import load_tokenizer
from search_lib.scorers.factory import check_text_scorer, step_reader
from search_lib.scorers.flags import AggregationName, LayoutName, ScorerFlags
from search_lib.scorers.inputs import read_texts
from search_lib.scorers.step_layouts import (
    AGGREGATIONS,
    QWEN_SYSTEM,
    STEP_LAYOUTS,
    blank_line_steps,
    line_steps,
)
from search_lib.scorers.text_model_scorer import TextModelScorer
from search_lib.scorers.text_models import StepModel, load_step_prm
from search_lib.scorers.texts import TextRequest
from tests.support.tiny_models import add_code
from tests.support.tiny_scorers import PROBLEM, SOLUTION, STEP_PRMS, shepherd_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("step_prms")
    return {name: save(folder / name) for name, (save, _) in STEP_PRMS.items()}


@pytest.fixture(scope="module")
def readers(folders):
    return {
        name: step_reader(ScorerFlags("prm", name), str(folder)) for name, folder in folders.items()
    }


@pytest.fixture(scope="module")
def models(folders, readers):
    return {
        name: load_step_prm(str(folder), readers[name], "sdpa", CPU)
        for name, folder in folders.items()
    }


def scores_of(model, reader, inputs, cache=0):
    return [read.scores for read in StepModel(model, reader, 2000, cache).read(inputs)]


def backbone(folder):
    """The model without its head, and all weights of the file."""
    weights = load_file(folder / "model.safetensors")
    inner = {name[6:]: value for name, value in weights.items() if name.startswith("model.")}
    model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    model.load_state_dict(inner)
    return model, weights


def by_qwens_card(folder, problem, solution):
    tokenizer = load_tokenizer(str(folder))
    steps = solution.split("\n\n")
    messages = [
        {"role": "system", "content": QWEN_SYSTEM},
        {"role": "user", "content": problem},
        {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
    ]
    ids = torch.tensor([tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))])
    model, weights = backbone(folder)
    hidden = model(ids).last_hidden_state
    inner = torch.relu(hidden @ weights["score.0.weight"].T + weights["score.0.bias"])
    logits = inner @ weights["score.2.weight"].T + weights["score.2.bias"]
    masks = ids == tokenizer.convert_tokens_to_ids("<extra_0>")
    return ids[0].tolist(), logits.softmax(-1)[masks][:, 1].tolist()


def by_shepherds_card(folder, problem, solution):
    tokenizer = load_tokenizer(str(folder))
    good, bad = tokenizer.encode("+ -")[1:]
    tag = tokenizer.encode("ки")[-1]
    text = f"{problem} " + "\n".join(f"{step} ки" for step in solution.split("\n\n"))
    ids = torch.tensor([tokenizer.encode(text)])
    logits = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits[:, :, [good, bad]]
    return ids[0].tolist(), logits.softmax(-1)[:, :, 0][ids == tag].tolist()


def by_skyworks_code(folder, problem, solution):
    tokenizer = load_tokenizer(str(folder))
    ids = tokenizer.encode(tokenizer.bos_token + problem + "\n")
    end = tokenizer.encode("\n")[-1]
    flags = [0] * len(ids)
    for line in solution.split("\n"):
        step = [*(tokenizer.encode(line) if line else []), end]
        ids += step
        flags += [0] * (len(step) - 1) + [1]
    model, weights = backbone(folder)
    hidden = model(torch.tensor([ids])).last_hidden_state[0]
    values = hidden @ weights["v_head.summary.weight"].T + weights["v_head.summary.bias"]
    return ids, values[:, 0].sigmoid()[torch.tensor(flags) == 1].tolist()


def by_rlhflows_code(folder, problem, solution):
    tokenizer = load_tokenizer(str(folder))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    candidates = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]
    conversation, scores = [], []
    for number, step in enumerate(solution.split("\n\n")):
        text = step if number else problem + " " + step
        conversation.append({"role": "user", "content": text})
        conversation.append({"role": "assistant", "content": "+"})
        chat = tokenizer.apply_chat_template(conversation, tokenize=False)
        ids = tokenizer.encode(chat, add_special_tokens=False)
        # "+" and the end of the turn are the last two tokens: the third-last predicts the "+".
        logits = model(torch.tensor([ids])).logits[0, -3, candidates]
        scores.append(logits.softmax(-1)[0].item())
    return ids, scores


DIRECT = {
    "qwen": by_qwens_card,
    "shepherd": by_shepherds_card,
    "skywork": by_skyworks_code,
    "rlhflow": by_rlhflows_code,
}


@pytest.mark.parametrize("name", DIRECT)
@torch.inference_mode()
def test_a_layout_scores_steps_as_its_card_does(folders, readers, models, name):
    ids, scores = DIRECT[name](folders[name], PROBLEM, SOLUTION)
    one = readers[name].encode(PROBLEM, SOLUTION)
    assert one.ids == ids
    assert scores_of(models[name], readers[name], [one])[0] == pytest.approx(scores, abs=1e-5)
    assert len({round(score, 3) for score in scores}) == len(scores) > 2  # no constant


@pytest.mark.parametrize("name", DIRECT)
def test_a_batch_scores_as_one_by_one(readers, models, name):
    texts = ["", SOLUTION, "2", SOLUTION + "\n\nmore " * 9]
    inputs = [readers[name].encode(PROBLEM, text) for text in texts]
    alone = [scores_of(models[name], readers[name], [one])[0] for one in inputs]
    for together, expected in zip(
        scores_of(models[name], readers[name], inputs), alone, strict=True
    ):
        assert together == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", DIRECT)
def test_tags_and_roles_in_a_text_are_plain_text(readers, name):
    tokenizer = STEP_PRMS[name][1]()
    special = [token.content for token in tokenizer.added_tokens_decoder.values()]
    text = "so " + " ".join([*special, "+", "<extra_0>", "end"])
    said, plain = (readers[name].encode(PROBLEM, words) for words in (text, "so end"))
    assert len(said.reads) == len(plain.reads) == 1
    control = set(tokenizer.added_tokens_decoder)
    assert [i for i in said.ids if i in control] == [i for i in plain.ids if i in control]
    decoded = tokenizer.decode(said.ids)
    assert all(token in decoded for token in special)


def test_a_word_that_is_the_step_tag_is_read_as_a_word(readers):
    """Math-Shepherd's tag is a word of its vocabulary: only those behind steps have scores."""
    one = readers["shepherd"].encode(PROBLEM, "a ки b\n\nc")
    tag = shepherd_tokenizer().encode("ки")[-1]
    places = [place for place, index in enumerate(one.ids) if index == tag]
    assert one.reads == places[1:]
    assert len(places) == 3


@pytest.mark.parametrize(
    ("response", "steps", "lines"),
    [
        ("a\n\nb", ["a", "b"], ["a", "", "b"]),
        ("a\nb", ["a\nb"], ["a", "b"]),
        ("a\n\nb\n\n", ["a", "b"], ["a", "", "b"]),
        ("\n\n a \n\n\n\nb", ["a", "b"], [" a ", "", "", "", "b"]),
        ("", [""], [""]),
        (" \n\n\n", [""], [" "]),
    ],
)
def test_steps_end_at_blank_lines_or_lines(response, steps, lines):
    assert blank_line_steps(response) == steps
    assert line_steps(response) == lines


def test_scores_of_steps_become_one_value():
    values = {name: rule([0.9, 0.2, 0.5]) for name, rule in AGGREGATIONS.items()}
    expected = {"last": 0.5, "min": 0.2, "mean": 1.6 / 3, "product": 0.09}
    assert values == pytest.approx(expected)


def test_flags_know_the_layouts_and_aggregations():
    assert LayoutName.__args__ == tuple(STEP_LAYOUTS)
    assert AggregationName.__args__ == tuple(AGGREGATIONS)


def test_a_scorer_gives_values_and_counts_its_own_tokens(readers, models):
    reader = readers["qwen"]
    model = StepModel(models["qwen"], reader, 400, max_cached_tokens=0)
    scorer = TextModelScorer(model, reader, AGGREGATIONS["product"], max_batch_tokens=400)
    texts = [SOLUTION, "2", SOLUTION + "\n\n3"]
    first, second = scorer.score_batch(
        [
            TextRequest(PROBLEM, texts[:2], [False, True]),
            TextRequest("1 + 2?", texts[2:], [False]),
        ]
    )
    inputs = [reader.encode(PROBLEM, text) for text in texts[:2]]
    inputs.append(reader.encode("1 + 2?", texts[2]))
    scores = [scores_of(models["qwen"], reader, [one])[0] for one in inputs]
    expected = [torch.tensor(steps).prod().item() for steps in scores]
    assert [*first.values, *second.values] == pytest.approx(expected, abs=1e-5)
    lengths = [len(one.ids) for one in inputs]
    assert (first.work.tokens, second.work.tokens) == (sum(lengths[:2]), lengths[2])
    assert second.work.contexts == sum(range(1, lengths[2] + 1))
    assert (first.tokens_cached, second.tokens_cached) == (0, 0)


@pytest.mark.parametrize("name", DIRECT)
def test_finished_steps_are_computed_once(readers, models, name):
    """A path that grows, also within a step: values as without a cache, and what it saved."""
    reader = readers[name]
    cached = StepModel(models[name], reader, 2000, max_cached_tokens=2000)
    texts = ["One", "One step.\n\nTwo", "One step.\n\nTwo steps", "One step.\n\nTwo steps.\n\nSo 2"]
    saved, lengths = [], []
    for text in texts:
        (one,) = read_texts(reader, PROBLEM, [text])
        (read,) = cached.read([one])
        assert read.scores == pytest.approx(scores_of(models[name], reader, [one])[0], abs=1e-5)
        saved.append(read.tokens_cached)
        lengths.append(len(one.ids))
    shared = read_texts(reader, PROBLEM, ["One"])[0].shared
    assert saved[0] == 0
    assert saved[1] == shared > len(PROBLEM) // 2  # the problem, and what stands ahead of it
    first_step = reader.encode(PROBLEM, texts[1]).reads[0]
    assert saved[2:] == [reader.encode(PROBLEM, texts[2]).reads[-2] + 1] * 2
    assert saved[2] > first_step


def test_candidates_of_a_path_share_its_states(readers, models):
    reader = readers["qwen"]
    model = StepModel(models["qwen"], reader, 2000, max_cached_tokens=0)
    scorer = TextModelScorer(model, reader, min, 2000)
    texts = [f"{SOLUTION}\n\n{end}" for end in ("a", "b", "c")]
    (scores,) = scorer.score_batch([TextRequest(PROBLEM, texts, [False] * 3)])
    prefix = reader.encode(PROBLEM, texts[0]).reads[-2] + 1
    assert scores.tokens_cached == 2 * prefix


def test_a_response_longer_than_the_context_is_refused(readers, models):
    model = StepModel(models["qwen"], readers["qwen"], 400, 0)
    scorer = TextModelScorer(model, readers["qwen"], min, 400)
    with pytest.raises(ValueError, match=r"is \d+ tokens of the scorer, which reads 512"):
        scorer.score_batch([TextRequest(PROBLEM, ["a" * 600], [False])])


@pytest.mark.parametrize(
    ("model", "layout", "message"),
    [
        ("qwen", "skywork", "holds Qwen2ForProcessRewardModel, whose layout is qwen, not skywork"),
        ("shepherd", "qwen", "holds MistralForCausalLM, whose layout is shepherd or rlhflow, not"),
        ("rlhflow", None, "does not tell its layout: it is shepherd or rlhflow"),
        ("rlhflow", "shepherd", "its tokenizer has no token 'ки', as those of Math-Shepherd"),
        ("shepherd", "rlhflow", "its tokenizer has no chat template"),
    ],
)
def test_a_checkpoint_of_another_layout_is_refused(folders, model, layout, message):
    with pytest.raises(ValueError, match=f"^{folders[model]}.*{message}"):
        check_text_scorer(ScorerFlags("prm", layout), str(folders[model]))


def test_positions_that_depend_on_the_batch_are_refused(folders, tmp_path):
    config = json.loads((folders["qwen"] / "config.json").read_text())
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}))
    with pytest.raises(ValueError, match=f"^{tmp_path} has dynamic positions"):
        check_text_scorer(ScorerFlags("prm"), str(tmp_path))


def test_the_architecture_tells_the_layout(folders):
    for name in ("qwen", "skywork"):
        assert step_reader(ScorerFlags("prm"), str(folders[name])).layout is STEP_LAYOUTS[name]


def test_code_of_a_checkpoint_is_not_run(tmp_path):
    folder = STEP_PRMS["qwen"][0](tmp_path / "prm")
    add_code(folder, tmp_path / "ran", None)
    reader = step_reader(ScorerFlags("prm"), str(folder))
    load_step_prm(str(folder), reader, "sdpa", CPU)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_without_its_head_is_refused(tmp_path, folders, readers):
    config = json.loads((folders["qwen"] / "config.json").read_text())
    AutoModelForCausalLM.from_pretrained(folders["qwen"]).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no weights for score"):
        load_step_prm(str(tmp_path), readers["qwen"], "sdpa", CPU)


@pytest.mark.parametrize("name", DIRECT)
def test_flops_are_those_of_the_backbone_and_its_head(folders, models, name):
    hidden = 32
    heads = {"qwen": hidden * hidden + 2 * hidden, "skywork": hidden}
    backbone_size = sum(
        parameter.numel()
        for key, parameter in models[name].base_model.named_parameters()
        if parameter.ndim > 1 and "embed" not in key
    )
    size = scorer_size(str(folders[name]))
    assert size.num_matmul_parameters == backbone_size + heads.get(name, 2 * hidden)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (ScorerFlags("prn"), "unknown --scorer 'prn'; known: hf, sglang, sglang_server, prm, vll"),
        (ScorerFlags("reward", "qwen"), r"--prm_layout is for step PRMs \(--scorer prm\), not rew"),
        (ScorerFlags(step_aggregation="min"), "--step_aggregation is for step PRMs .*, not hf"),
        (ScorerFlags("http"), "--scorer http needs --scorer_url, where your own server serves"),
        (ScorerFlags("prm", scorer_url=("http://a:1",)), "--scorer_url is for --scorer sglang_ser"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        flags.check()

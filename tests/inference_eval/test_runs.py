"""Evaluations from start to end."""

import json
import math
import re
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import inference_eval
from classifier_lib.loading import load_value_model
from run_lib.commands import InputError
from run_lib.hub import load_tokenizer
from scripts import report
from search_lib import open_models
from search_lib.answer_formats import ANSWER_FORMATS
from search_lib.answer_rules import STRICT
from search_lib.open_models import OpenModels
from search_lib.results.blocks import RunBlocks
from search_lib.results.page.packing import decompress
from search_lib.results.page.run_pages import load_runs
from search_lib.results.page.trees import KEPT, LOOKAHEAD
from search_lib.results.records import read_records
from search_lib.results.selection import parse_selections
from search_lib.search_args import Args
from tests.support.flags import replace_flags
from tests.support.searches import (
    PLAIN,
    assert_same_searches,
    make_args,
    responses,
)
from tests.support.tiny_models import save_tiny_classifier


@pytest.mark.parametrize("search_type", ["beam2", "bfs", "bon", "random"])
def test_a_run_writes_records_metrics_and_its_configuration(models, tmp_path, capsys, search_type):
    args = make_args(models, tmp_path, search_type=search_type)
    assert inference_eval.main(args) == 0
    records = list(read_records(args.output_path))
    assert sorted(r.key for r in records) == [(f"toy-00{p}", r) for p in range(3) for r in range(2)]
    for record in records:
        assert len(record.responses) == {"bfs": 1, "bon": 4}.get(search_type, 2)
        assert all(1 <= r.num_tokens <= 32 for r in record.responses)
        assert sum(node.num_tokens for node in record.tree) == record.cost.tokens_generated
        # Every token of the tree went through the value model once, the prompt at most once.
        assert 0 <= record.cost.tokens_scored - record.cost.tokens_generated < 100
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert {(row["method"], row["budget"]) for row in document["metrics"]} == {
        (method, budget) for method in ("MV", "WMV", "BoN", "pass@1", "pass@k") for budget in (4, 8)
    }
    assert document["summary"]["num_searches"] == 6
    cost = document["cost"]
    scored = sum(record.cost.tokens_scored for record in records)
    assert cost["tokens_scored"] == scored
    assert cost["tokens_cached"] > 0
    size = cost["value_model_size"]
    assert cost["value_model_flops"] == 2 * size["num_matmul_parameters"] * scored + 4 * size[
        "attention_width"
    ] * sum(record.cost.contexts_scored for record in records)
    assert cost["policy_flops"] > 0
    assert 0 < cost["engine_busy_share"] <= 1
    assert len(cost["sessions"]) == 1
    assert json.loads((tmp_path / "run_config.json").read_text())["search_type"] == search_type
    table = capsys.readouterr().out
    assert "3 of 3 problems complete" in table
    assert ["budget", "4", "8"] in [line.split() for line in table.splitlines()]


@pytest.mark.parametrize(
    ("search_type", "num_responses"),
    [
        ("lookahead2", {1}),
        ("dvts2", {2}),
        ("stochastic2", {2}),
        ("adaptive2", {2}),
        ("particles", {4}),
        ("entropic", {4}),
        ("prune2", {2}),
        ("reject50", {1, 2, 3, 4}),
        ("deepconf2", {1, 2, 3, 4}),
    ],
)
def test_every_strategy_leads_from_flags_to_the_page(models, tmp_path, search_type, num_responses):
    args = make_args(models, tmp_path, search_type=search_type, max_problems=2, confidence=6)
    assert inference_eval.main(args) == 0
    run = RunBlocks(args.output_path)
    for record in read_records(args.output_path):
        assert len(record.responses) in num_responses
        # Lookaheads, too.
        assert sum(node.num_tokens for node in record.tree) == record.cost.tokens_generated
        assert 0 <= record.cost.tokens_scored - record.cost.tokens_generated < 100
        search = run.of(record)
        for response in record.responses:
            assert len(search.response_ids(response.node)) == response.num_tokens
            assert 0 < response.confidence.lowest <= response.confidence.mean
    (page,) = load_runs(parse_selections([str(tmp_path)]), STRICT)
    assert page.lacks() == ["The values of single tokens were not saved."]
    trees = [tree for name in page.graded for tree in page.problem(name)["trees"]]
    for tree in trees:
        ends = {response["node"] for response in tree["responses"]}
        assert all(tree["state"][node] & KEPT for node in ends)
    has_lookaheads = any(state & LOOKAHEAD for tree in trees for state in tree["state"])
    assert has_lookaheads == (search_type == "lookahead2")


@pytest.mark.parametrize("search_type", ["bon", "random"])
def test_plain_sampling_needs_no_value_model(models, tmp_path, capsys, search_type):
    args = make_args(models, tmp_path, search_type=search_type, **PLAIN)
    assert inference_eval.main(args) == 0
    records = list(read_records(args.output_path))
    assert len(records) == 6
    for record in records:
        assert {part.value for part in [*record.responses, *record.tree]} == {None}
        assert record.cost.tokens_generated > 0
        scoring = record.cost.tokens_scored, record.cost.contexts_scored, record.cost.tokens_cached
        assert scoring == (0, 0, 0)
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert {row["method"] for row in document["metrics"]} == {"MV", "pass@1", "pass@k"}
    assert document["cost"]["value_model_flops"] == 0
    assert document["cost"]["value_model_size"] is None
    assert document["cost"]["policy_flops"] > 0
    table = [line.split()[:1] for line in capsys.readouterr().out.splitlines()]
    assert ["MV"] in table
    assert ["WMV"] not in table
    config = json.loads((tmp_path / "run_config.json").read_text())
    assert config["classifier_ckpt_path"] is config["fingerprints"]["classifier_ckpt_path"] is None


def valued_directly(args: Args, paths: list[list[int]]) -> list[list[float]]:
    """P(correct) after every token of each path, each of them in a forward of its own."""
    model = load_value_model(args.classifier_ckpt_path, "sdpa", torch.float32, torch.device("cpu"))
    with torch.no_grad():
        return [model(torch.tensor([path])).success_probs[0].tolist() for path in paths]


@pytest.mark.parametrize("search_type", ["beam2", "bfs", "bon", "random"])
def test_the_blocks_of_a_tree_are_kept_with_the_values_of_their_tokens(
    models, tmp_path, search_type
):
    changes = {"search_type": search_type, "max_problems": 1, "token_values": True}
    args = make_args(models, tmp_path, **changes)
    assert inference_eval.main(args) == 0
    tokenizer = load_tokenizer(args.piref_model)
    run = RunBlocks(args.output_path)
    for record in read_records(args.output_path):
        search = run.of(record)
        assert [block.node for block in search.blocks] == record.tree
        assert record.problem in tokenizer.decode(search.prompt_ids)
        for response in record.responses:
            ids = search.response_ids(response.node).tolist()
            assert len(ids) == response.num_tokens
            ended = ids[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(ids[:-1] if ended else ids) == response.text
        # Dropped ones, too.
        paths = [search.response_ids(node).tolist() for node in range(len(search.blocks))]
        expected = valued_directly(args, [search.prompt_ids + path for path in paths])
        for block, values in zip(search.blocks, expected, strict=True):
            assert block.token_values[-1] == pytest.approx(block.node.value, abs=1 / 509)
            own = values[-len(block.token_ids) :]
            assert block.token_values.tolist() == pytest.approx(own, abs=1 / 509)


@pytest.mark.parametrize("save_blocks", [True, False])
def test_the_confidence_of_every_response_is_recorded(models, tmp_path, save_blocks):
    changes = {"max_problems": 1, "temperature": 0.7, "top_p": 0.9}
    args = make_args(models, tmp_path / "with", confidence=6, vote=("Borda0.3", "PV"), **changes)
    assert inference_eval.main(replace(args, save_blocks=save_blocks)) == 0
    rows = json.loads((tmp_path / "with" / "metrics.json").read_text())["metrics"]
    assert {"MV", "Borda0.3", "PV"} <= {row["method"] for row in rows}
    assert (tmp_path / "with" / "blocks.jsonl").exists() == save_blocks
    other = make_args(models, tmp_path / "without", **changes)
    assert inference_eval.main(other) == 0
    assert responses(args.output_path) == responses(other.output_path)
    run = RunBlocks(other.output_path)
    policy = AutoModelForCausalLM.from_pretrained(args.piref_model)
    records, others = (
        sorted(read_records(path), key=lambda record: record.key)
        for path in (args.output_path, other.output_path)
    )
    for record, plain in zip(records, others, strict=True):
        search = run.of(plain)
        for response, unmeasured in zip(record.responses, plain.responses, strict=True):
            ids = search.response_ids(unmeasured.node).tolist()
            with torch.no_grad():
                logits = policy(torch.tensor([search.prompt_ids + ids])).logits[0]
            logprobs = logits[len(search.prompt_ids) - 1 : -1].log_softmax(-1)
            confidences = -logprobs.topk(20).values.mean(-1)
            windows = [window.mean() for window in confidences.unfold(0, min(6, len(ids)), 1)]
            assert response.confidence.lowest == pytest.approx(min(windows).item(), abs=1e-5)
            assert response.confidence.tail == pytest.approx(windows[-1].item(), abs=1e-5)
            certainty = (-logprobs.mean(-1) - math.log(logprobs.shape[-1])).mean()
            assert response.confidence.self_certainty == pytest.approx(certainty.item(), abs=1e-5)
            assert unmeasured.confidence is None


def test_plain_sampling_keeps_its_blocks_without_values(models, tmp_path):
    args = make_args(models, tmp_path, search_type="random", max_problems=1, **PLAIN)
    assert inference_eval.main(args) == 0
    run = RunBlocks(args.output_path)
    for record in read_records(args.output_path):
        search = run.of(record)
        assert {block.token_values for block in search.blocks} == {None}
        for response in record.responses:
            assert len(search.response_ids(response.node)) == response.num_tokens


def test_a_report_adds_the_values_of_tokens_to_a_run_that_had_no_value_model(
    models, tmp_path, capsys
):
    args = make_args(models, tmp_path, search_type="random", max_problems=1, **PLAIN)
    assert inference_eval.main(args) == 0
    value_model, out = str(models / "value_model"), tmp_path / "report.html"
    report.run([str(tmp_path), "--out", str(out), "--classifier_ckpt_path", value_model])
    printed = capsys.readouterr().out
    assert f"{value_model}: values of tokens of 2 trees; the searches had no values" in printed
    record = next(read_records(args.output_path))
    search = RunBlocks(args.output_path).of(record)
    packed = re.search(f'id="texts-0-0-{record.repetition}">([^<]*)', out.read_text())[1]
    path = search.prompt_ids + search.response_ids(0).tolist()
    args = replace(args, classifier_ckpt_path=value_model)
    (expected,) = valued_directly(args, [path])
    shown = decompress(packed)["blocks"][0]["parts"][0]["values"]
    of_block = expected[len(search.prompt_ids) :]
    assert shown == pytest.approx([255 * value for value in of_block], abs=0.6)


def test_a_run_without_its_blocks_goes_on_and_says_that_it_lacks_them(models, tmp_path, capsys):
    args = make_args(models, tmp_path, save_blocks=False, num_repetitions=1, max_problems=1)
    assert inference_eval.main(args) == 0
    assert not (tmp_path / "blocks.jsonl").exists()
    (record,) = read_records(args.output_path)
    run = RunBlocks(args.output_path)
    assert run.of(record) is None
    assert "the run is of an earlier version or --no_save_blocks" in run.remark()
    assert inference_eval.main(replace_flags(args, save_blocks=True)) == 0
    assert "1 searches are there, 0 to run" in capsys.readouterr().out


def test_a_multiple_choice_benchmark_asks_for_a_letter(models, tmp_path, monkeypatch):
    short = replace(ANSWER_FORMATS["choice"], instruction="\n")  # for a context of 128 tokens
    monkeypatch.setitem(ANSWER_FORMATS, "choice", short)
    choices = {"label": ["1", "2"], "text": ["3", "4"]}
    row = {"id": "q", "question": "start 1 +2", "choices": choices, "answerKey": "1"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    path = tmp_path / "run" / "records.jsonl"
    benchmark = f"csqa={tmp_path / 'mine.jsonl'}"
    args = make_args(models, tmp_path, benchmark=benchmark, output_path=path, max_length=16)
    with pytest.raises(InputError, match="--answer_format boxed is not for --benchmark csqa="):
        inference_eval.main(replace_flags(args, answer_format="boxed"))
    with pytest.raises(InputError, match=r"--answers published counts boxes, not .* choice"):
        inference_eval.main(replace_flags(args, answers="published"))
    assert inference_eval.main(args) == 0
    (record, _) = read_records(path)
    assert (record.problem, record.reference) == ("start 1 +2\n(A) 3\n(B) 4", "A")
    assert (
        json.loads((tmp_path / "run" / "run_config.json").read_text())["answer_format"] == "choice"
    )
    assert inference_eval.main(replace_flags(args, answer_format="choice")) == 0


def test_plain_sampling_draws_what_the_value_model_would_weigh(models, tmp_path):
    valued = make_args(models, tmp_path / "valued", search_type="bon")
    plain = replace_flags(valued, output_path=tmp_path / "plain" / "records.jsonl", **PLAIN)
    for args in (valued, plain):
        inference_eval.main(args)
    assert responses(plain.output_path) == responses(valued.output_path)


def test_a_result_does_not_depend_on_how_many_searches_share_the_models(models, tmp_path):
    runs = {}
    for window in (1, 6):
        args = make_args(models, tmp_path / str(window), max_concurrent=window)
        inference_eval.main(args)
        runs[window] = responses(args.output_path)
    assert runs[1] == runs[6]


def block_ids(path):
    run = RunBlocks(path)
    return {
        record.key: [list(block.token_ids) for block in run.of(record).blocks]
        for record in read_records(path)
    }


@pytest.mark.parametrize("search_type", ["beam2", "deepconf2"])
def test_blocks_that_are_sent_ahead_change_no_result(models, tmp_path, capsys, search_type):
    plain = make_args(
        *(models, tmp_path / "plain"),
        **{"search_type": search_type, "num_blocks": 8, "num_repetitions": 1, "confidence": 4},
    )
    ahead = replace_flags(plain, output_path=tmp_path / "ahead" / "records.jsonl", speculate=True)
    for args in (plain, ahead):
        assert inference_eval.main(args) == 0
    assert_same_searches(plain.output_path, ahead.output_path)
    ours, theirs = (block_ids(args.output_path) for args in (ahead, plain))
    assert ours == theirs
    cost = json.loads((ahead.output_path.parent / "metrics.json").read_text())["cost"]
    waste = (cost["tokens_wasted"], cost["blocks_cancelled"])
    assert ("--speculate: " in capsys.readouterr().out) == any(waste)
    taken = sum(record.cost.tokens_generated for record in read_records(ahead.output_path))
    assert cost["tokens_generated"] == taken


def test_an_answer_that_explodes_is_wrong_and_the_run_goes_on(models, tmp_path, monkeypatch):
    texts = iter(["</think>\\boxed{9^{9^{9^9}}}", "</think>\\boxed{\\frac{1}{2}}"] * 100)
    tokenizer_class = type(inference_eval.load_tokenizer(str(models / "policy")))
    monkeypatch.setattr(tokenizer_class, "decode", lambda self, ids, **options: next(texts))
    problems = tmp_path / "mine.jsonl"
    problems.write_text('{"problem": "start 1 +2", "answer": "0.5"}\n')
    started = time.monotonic()
    assert inference_eval.main(make_args(models, tmp_path, benchmark=str(problems))) == 0
    assert time.monotonic() - started < 60
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    single = {row["method"]: row["estimate"]["mean"] for row in metrics if row["budget"] == 8}
    assert single["pass@1"] == 0.5  # one half is right, the tower of nines is wrong


def test_a_run_of_which_no_search_ends_well_says_so_and_reports_nothing(models, tmp_path, capsys):
    folder = save_tiny_classifier(tmp_path / "value_model")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    args = make_args(models, tmp_path / "run", classifier_ckpt_path=str(folder))
    assert inference_eval.main(args) == 1
    output = capsys.readouterr()
    assert "no search has ended well: there is nothing to report" in output.out
    assert "ValueError: path 0 got the value nan, not in [0, 1]" in output.out
    assert "6 searches failed; the same command tries them again" in output.out
    assert "Traceback" not in output.err
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_runs_that_share_models_are_those_of_each_alone(models, tmp_path, monkeypatch):
    opened = []

    def recorded(open_one):
        return lambda *arguments: opened.append(open_one.__name__) or open_one(*arguments)

    for name in ("open_engine", "open_scorer"):
        monkeypatch.setattr(open_models, name, recorded(getattr(open_models, name)))
    settings = [{"num_blocks": 4}, {"num_blocks": 2}, {"search_type": "bon", **PLAIN}]
    with OpenModels() as shared:
        for number, changes in enumerate(settings):
            args = make_args(models, tmp_path / f"shared{number}", max_problems=1, **changes)
            assert inference_eval.evaluate(args, shared) == 0
    assert opened == ["open_engine", "open_scorer", "open_scorer"]
    for number, changes in enumerate(settings):
        args = make_args(models, tmp_path / f"alone{number}", max_problems=1, **changes)
        assert inference_eval.main(args) == 0
        shared_path = tmp_path / f"shared{number}" / args.output_path.name
        assert responses(shared_path) == responses(args.output_path)

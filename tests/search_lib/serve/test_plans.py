"""What requests come to."""

import asyncio

import pytest

from data_prep.toy.tokenizer import build_tokenizer
from search_lib.scorers.flags import ScorerFlags
from search_lib.serve.errors import ApiError
from search_lib.serve.plans import choice_seed, fit_lengths
from search_lib.serve.requests import ChatRequest, CompletionRequest
from search_lib.strategies.base import StrategySettings
from tests.support.serving import QUESTION, flags_of, planner_of


def plan_chat(server=None, **fields):
    planner = planner_of(flags_of(**server or {}))
    return asyncio.run(planner.plan(ChatRequest.model_validate(QUESTION | fields)))


def plan_completion(server=None, **fields):
    planner = planner_of(flags_of(**server or {}))
    request = CompletionRequest.model_validate({"model": "policy"} | fields)
    return asyncio.run(planner.plan(request))


def refusal(plan, **fields):
    with pytest.raises(ApiError) as refused:
        plan(**fields)
    return refused.value


def search_of(plan):
    flags = plan.asks[0].flags
    return flags.search_type, flags.num_blocks, flags.num_repetitions


@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("policy", ("beam2", 4, 2)),
        ("policy:beam2-8x4", ("beam2", 8, 4)),
        ("policy:bon-16", ("bon", 16, 1)),
        ("policy:random-6x1", ("random", 6, 1)),
    ],
)
def test_a_name_chooses_the_search(name, search):
    assert search_of(plan_chat(model=name)) == search


@pytest.mark.parametrize(
    "name", ["", "polic", "policy2", "policy:", "policy:beam2", "policy:beam2-x4", "gpt-4:bon-4"]
)
def test_other_names_are_not_found(name):
    error = refusal(plan_chat, model=name)
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")


def test_a_policy_may_have_any_name():
    server = {"served_model_name": "org/qwen:7b-1x1"}
    assert search_of(plan_chat(server, model="org/qwen:7b-1x1:bon-2")) == ("bon", 2, 1)


def test_fields_go_before_the_name():
    plan = plan_chat(model="policy:beam2-8x4", search={"num_blocks": 2, "vote": "MV"})
    assert search_of(plan) == ("beam2", 2, 4)
    assert plan.vote == "MV"
    assert plan.model == "policy:beam2-2x4"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"model": "policy:foo-8"}, "model", "unknown search_type 'foo'"),
        ({"model": "policy:beam3-8"}, "model", "num_blocks 8 is not divisible by the width 3"),
        ({"search": {"num_blocks": 3}}, "search.num_blocks", "num_blocks 3 is not divisible"),
        ({"search": {"search_type": "beam"}}, "search.search_type", "search_type beam needs"),
        (
            {"search": {"stop_confidence": 0.9}},
            "search.stop_confidence",
            "stop_confidence is for stop beta and value, not never",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named_as_the_request_has_them(fields, param, message):
    error = refusal(plan_chat, **fields)
    assert (error.status_code, error.param) == (400, param)
    assert error.message.startswith(message)
    assert "--" not in error.message


def test_settings_of_the_servers_own_search_are_not_of_others():
    settings = StrategySettings(lookahead=1)
    server = {"search_type": "lookahead1", "strategy_settings": settings}
    assert search_of(plan_chat(server, model="policy:beam2-4")) == ("beam2", 4, 1)


def test_a_rule_that_stops_has_its_own_confidence():
    server = {"stop": "beta", "stop_confidence": 0.99}
    assert plan_chat(server, search={"stop": "decided"}).asks[0].flags.stop_confidence is None


@pytest.mark.parametrize("vote", ["WMV", "BoN"])
def test_votes_that_weigh_by_values_need_some(vote):
    server = {"scorer_flags": ScorerFlags(scorer="none"), "search_type": "bon"}
    error = refusal(plan_chat, server=server, search={"vote": vote})
    assert error.param == "search.vote"


@pytest.mark.parametrize(
    ("max_tokens", "lengths"),
    [(None, (32, 8)), (1000, (32, 8)), (32, (32, 8)), (20, (16, 8)), (8, (8, 8)), (5, (5, 5))],
)
def test_a_response_has_whole_blocks_of_at_most_max_tokens(max_tokens, lengths):
    flags = plan_chat(max_tokens=max_tokens).asks[0].flags
    assert (flags.max_length, flags.block_size) == lengths


def test_larger_blocks_shorten_responses_to_whole_ones():
    flags = plan_chat(search={"block_size": 12}).asks[0].flags
    assert (flags.max_length, flags.block_size) == (24, 12)


def test_lengths_of_the_server_stay_as_they_are():
    server = {"max_length": 30, "search_type": "bon"}
    assert plan_chat(server).asks[0].flags.max_length == 30
    assert fit_lengths(flags_of(**server), 1000).max_length == 24


def test_the_newer_limit_of_tokens_goes_before_the_older():
    plan = plan_chat(max_tokens=32, max_completion_tokens=16)
    assert plan.asks[0].flags.max_length == 16


@pytest.mark.parametrize(
    ("temperature", "used"), [(None, 0.6), (0, 0.0), (1e-30, 0.0), (0.01, 0.01), (2, 2.0)]
)
def test_temperatures_are_numbers_that_logits_can_be_divided_by(temperature, used):
    sampling = plan_chat(temperature=temperature).asks[0].flags.sampling
    assert sampling.temperature == used
    assert isinstance(sampling.temperature, float)


def test_choices_have_seeds_of_their_own_and_the_first_has_the_requests():
    seeds = [ask.flags.seed for ask in plan_chat(seed=7, n=3).asks]
    assert seeds == [7, choice_seed(7, 1), choice_seed(7, 2)]
    assert len({*seeds}) == 3
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_without_a_seed_it_is_a_new_one_each_time():
    planner = planner_of(flags_of())
    request = ChatRequest.model_validate(QUESTION)
    seeds = {asyncio.run(planner.plan(request)).asks[0].flags.seed for _ in range(3)}
    assert len(seeds) == 3
    assert max(seeds) < 2**53


def test_prompts_are_asked_n_times_each_one_as_if_alone():
    plan = plan_completion(prompt=["start 1 +3", "start 2"], n=2, seed=5)
    assert [ask.question.text for ask in plan.asks] == ["start 1 +3"] * 2 + ["start 2"] * 2
    assert [ask.flags.seed for ask in plan.asks] == [5, choice_seed(5, 1)] * 2


def test_a_prompt_is_taken_as_it_is():
    text = "start 1 +3<think>"
    ids = plan_completion(prompt=text).asks[0].question.prompt_ids
    assert build_tokenizer().decode(ids) == text
    assert plan_completion(prompt=ids).asks[0].question.prompt_ids == ids


def test_parts_of_a_message_are_one_text():
    parts = [{"type": "text", "text": "start "}, {"type": "text", "text": "1 +3"}]
    plan = plan_chat(messages=[{"role": "user", "content": parts}])
    assert plan.asks[0].question == plan_chat().asks[0].question


def test_a_conversation_may_have_turns_as_replies_have_them():
    turn = {"role": "assistant", "content": "4", "reasoning_content": "so", "refusal": None}
    messages = [*QUESTION["messages"], turn, {"role": "user", "content": "+5"}]
    plan = plan_chat(messages=messages)
    assert plan.asks[0].question.text == "+5"
    assert len(plan.asks[0].question.prompt_ids) > len(plan_chat().asks[0].question.prompt_ids)


def test_the_instruction_is_part_of_conversations_only():
    server = {"instruction": " ok"}
    prompt = {"prompt": "start 1 +3"}
    assert plan_chat(server).num_prompt_tokens > plan_chat().num_prompt_tokens
    with_instruction, without = plan_completion(server, **prompt), plan_completion(**prompt)
    assert with_instruction.asks[0].question == without.asks[0].question


def test_a_conversation_that_is_none_is_refused_without_the_place_of_the_model():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    error = refusal(plan_chat, messages=messages)
    assert (error.status_code, error.param) == (400, "messages")
    assert "secret" not in error.message


def test_token_ids_beyond_the_vocabulary_never_reach_the_engine():
    largest = len(build_tokenizer()) - 1
    plan_completion(prompt=[largest])
    assert refusal(plan_completion, prompt=[1, largest + 1]).param == "prompt"


@pytest.mark.parametrize(
    ("fields", "server"),
    [({"max_tokens": 32}, {}), ({"max_tokens": 8}, {"max_prompt_tokens": 96})],
)
def test_a_prompt_fits_beside_the_response(fields, server):
    plan_completion(server, prompt=[1] * 96, **fields)
    error = refusal(plan_completion, server=server, prompt=[1] * 97, **fields)
    assert error.code == "context_length_exceeded"


def test_a_shorter_response_leaves_more_room_for_a_prompt():
    plan_completion(prompt=[1] * 120, max_tokens=8)


@pytest.mark.parametrize(
    "fields", [{"n": 5}, {"model": "policy:beam2-64x1"}, {"search": {"num_repetitions": 9}}]
)
def test_the_budget_of_a_request_has_a_limit(fields):
    server = {"max_budget": 32}
    plan_chat(server, n=4)
    assert refusal(plan_chat, server=server, **fields).code == "budget_exceeded"

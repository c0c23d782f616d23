"""Flags of the scorer: checking them changes nothing."""

import resource

import pytest

from search_lib.scorers.factory import OPENERS, READERS
from search_lib.scorers.flags import SCORER_HELP, ScorerFlags
from search_lib.scorers.registry import SCORERS, family_of


@pytest.mark.parametrize(
    "flags",
    [
        ScorerFlags(),
        ScorerFlags(scorer="sglang_server", scorer_url=("http://a:30000", "http://b:30000")),
    ],
    ids=lambda flags: flags.scorer,
)
def test_checking_flags_leaves_the_limit_of_open_files(flags):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = (256, before[1])  # so low that connections to a server would raise it
    resource.setrlimit(resource.RLIMIT_NOFILE, low)
    try:
        flags.check()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == low
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_every_scorer_of_the_registry_can_be_opened_and_is_in_the_help():
    assert {*OPENERS} == {*SCORERS} - {"none"}
    assert {*READERS} <= {kind.family for kind in SCORERS.values()}
    assert all(f"{name}: {kind.summary}" in SCORER_HELP for name, kind in SCORERS.items())


def test_scorers_of_one_family_are_those_that_give_equal_values():
    families = {}
    for name in SCORERS:
        families.setdefault(family_of({"scorer": name}), set()).add(name)
    assert [*families.values()] == [
        {"hf", "sglang", "sglang_server"},
        {"prm", "vllm_pooling"},
        {"reward", "vllm_classify", "sglang_reward"},
        {"vllm_score"},
        {"http"},
        {"none"},
    ]
    assert family_of({}) == family_of({"scorer": "hf"})  # of runs before there was the flag

"""Flags of the scorer: checking them changes nothing."""

import resource

import pytest

from search_lib.scorers.flags import ScorerFlags


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

"""Strategies, scorers and votes from a file outside of the repository."""

import pytest

from run_lib.commands import InputError
from search_lib.plugins import load_plugin
from search_lib.scorers.registry import SCORERS
from search_lib.strategies import STRATEGIES, Limits, strategy_factory
from search_lib.voting import VOTES, find_vote
from tests.support.fake_searches import run
from tests.support.paths import ROOT
from tests.support.plugins import forgotten_plugins

EXAMPLE = ROOT / "docs" / "plugin_example.py"


@pytest.fixture(autouse=True)
def _forget():
    with forgotten_plugins():
        yield


def written(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(text)
    return path


def test_the_strategy_of_the_example_runs_and_explores():
    load_plugin(EXAMPLE)
    limits = Limits(max_length=12, block_size=4, stop_token_ids=(9,))
    new_search = strategy_factory("exploring2", 8, limits)
    searches = [new_search([1, 2], seed) for seed in range(20)]
    responses = [run(search) for search in searches]
    assert {len(of_search) for of_search in responses} == {4}
    again = [run(new_search([1, 2], seed)) for seed in range(20)]
    assert again == responses
    plain = strategy_factory("beam2", 8, limits)
    assert [run(plain([1, 2], seed)) for seed in range(20)] != responses


def test_a_file_is_loaded_once(tmp_path):
    text = "VOTES = {}\nSTRATEGIES = {'mine': print}\nopen(__file__ + '.ran', 'a').write('x')\n"
    path = written(tmp_path, text)
    load_plugin(path)
    load_plugin(path)
    assert (tmp_path / "mine.py.ran").read_text() == "x"


def test_a_vote_of_a_plugin_is_found_by_its_name():
    with pytest.raises(ValueError, match="there is no vote 'Trimmed'"):
        find_vote("Trimmed")
    load_plugin(EXAMPLE)
    assert find_vote("Trimmed").needs == ("values",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines none of STRATEGIES, SCORERS, VOTES"),
        ("import absent_package", "can't be run: ModuleNotFoundError: No module named 'absent"),
        ("STRATEGIES = {", "can't be run: SyntaxError: '{' was never closed"),
        ("STRATEGIES = [1]", "STRATEGIES is no dictionary"),
        ("STRATEGIES = {'beam': print}", "there is a 'beam' in STRATEGIES already"),
        ("SCORERS = {'hf': print}", "there is a 'hf' in SCORERS already"),
        ("STRATEGIES = {'mine2': print}", "has the name 'mine2'; names are letters"),
        ("VOTES = {'mine': print}", "VOTES['mine'] is not a Vote"),
        ("SCORERS = {'mine': 3}", "SCORERS['mine'] is not a function of flags, model and place"),
    ],
)
def test_a_file_that_is_no_plugin_is_one_line_and_adds_nothing(tmp_path, text, message):
    path = written(tmp_path, text)
    before = dict(STRATEGIES), dict(SCORERS), dict(VOTES)
    with pytest.raises(InputError) as refused:
        load_plugin(path)
    assert str(refused.value).startswith(f"--plugin {path}")
    assert message in str(refused.value)
    assert before == (STRATEGIES, SCORERS, VOTES)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"absent.py: there is no such Python file \(.py\)"):
        load_plugin(tmp_path / "absent.py")

"""How runs and methods are named on a command line."""

from pathlib import Path

import pytest

from search_lib.results.selection import parse_selections
from search_lib.voting import known_votes


def named(*texts):
    return [(one.label, str(one.path), one.method) for one in parse_selections(texts)]


def test_a_run_may_have_a_label_and_a_method():
    assert named("runs/bon", "runs/bon:MV", "plain=runs/bon", "MV=runs/bon:MV") == [
        ("bon", "runs/bon", None),
        ("bon", "runs/bon", "MV"),
        ("plain", "runs/bon", None),
        ("MV", "runs/bon", "MV"),
    ]


def test_a_label_names_one_curve_if_a_method_is_given():
    run, labelled, curve = parse_selections(["bon", "plain=bon", "best=bon:BoN"])
    assert run.label_of("MV") == "bon MV"
    assert labelled.label_of("MV") == "plain MV"
    assert curve.label_of("BoN") == "best"


def test_runs_of_one_folder_name_are_told_apart_by_their_paths():
    assert [label for label, _, _ in named("a/run", "b/run", "c")] == ["a/run", "b/run", "c"]
    assert [label for label, _, _ in named("a/run", "b/run:MV", "c")] == ["a/run", "b/run", "c"]


def test_the_folder_of_the_command_is_called_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert [label for label, _, _ in named(".", "x")] == ["here", "x"]
    assert [label for label, _, _ in named(".", "../here:MV")] == [".", "../here"]


def test_signs_in_paths_that_exist_are_part_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=1:MV").mkdir()
    assert named("lr=1:MV", "lr=1:MV:BoN", "x=lr=1:MV:BoN") == [
        ("lr=1:MV", "lr=1:MV", None),
        ("lr=1:MV", "lr=1:MV", "BoN"),
        ("x", "lr=1:MV", "BoN"),
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a:"], "'a:' is not of the form label=folder:method"),
        ([":MV"], "':MV' is not of the form label=folder:method"),
        (["a=:MV"], "'a=:MV' is not of the form label=folder:method"),
        (["a:VGS"], f"'a:VGS': there is no vote 'VGS'; known: {known_votes()}"),
        (["a:PV2000"], "'a:PV2000': 'PV2000': alpha must be from 0 to 1000"),
        (["a=b:MV", "a=c:MV"], "'a=c:MV' is there twice: give one of them another label"),
        (["a", "a"], "'a' is there twice: give one of them another label"),
    ],
)
def test_what_names_no_run_is_refused(texts, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        parse_selections(texts)
    assert str(raised.value) == message

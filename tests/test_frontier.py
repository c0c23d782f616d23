"""The accuracy-cost frontier of runs: its table, its plot, and what is refused."""

import pytest

from scripts import frontier
from tests.support.runs import write_run

PLAIN = {"a": ("1", [[("1", 0.9)], [("2", 0.8)]]), "b": ("5", [[("4", 0.5)], [("5", 0.4)]])}
GUIDED = {"a": ("1", [[("1", 0.9)], [("1", 0.8)]]), "b": ("5", [[("4", 0.5)], [("5", 0.9)]])}


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "plain", PLAIN, num_blocks=2)
    write_run(tmp_path / "guided", GUIDED, num_blocks=2, search_type="beam2")
    return str(tmp_path / "plain"), str(tmp_path / "guided")


def table(capsys, tmp_path, *argv):
    frontier.run([*argv, "--output", str(tmp_path / "plot.png")])
    lines = capsys.readouterr().out.split("\naccuracy in %")[0].splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell] for line in lines]


def test_a_line_a_method_and_number_of_trees(runs, tmp_path, capsys):
    header, _, *lines = table(capsys, tmp_path, *runs)
    assert [*header, lines[0][0]] == [
        *("", "trees", "budget", "flops", "tokens", "seconds"),
        *("accuracy", "95 %", "optimal in", "plain MV"),
    ][1:]
    assert [(line[0], line[1]) for line in lines] == [
        (f"{run} {method}", trees)
        for run in ("plain", "guided")
        for method in ("MV", "WMV", "BoN")
        for trees in "12"
    ]
    found = {(line[0], line[1]): line[2:] for line in lines}
    # Trees of 10 and 20 tokens: 15 on average, of 30 that took 20 seconds a problem of two.
    assert found["plain WMV", "1"][:5] == ["2", "8.28e+03", "15", "5", "50.0"]
    assert found["guided WMV", "2"][4] == "100.0"


def test_what_nothing_cheaper_reaches_is_marked(runs, tmp_path, capsys):
    lines = table(capsys, tmp_path, *runs)
    found = {(line[0], line[1]): line[8:] for line in lines[2:]}
    assert found["guided WMV", "2"] == ["all"]
    # The majority vote over plain samples needs no value model.
    assert found["plain MV", "1"] == ["flops"]
    assert found["plain MV", "2"] == []


def test_pass_at_k_is_shown_and_marked_nowhere(runs, tmp_path, capsys):
    plain, guided = runs
    lines = table(capsys, tmp_path, f"oracle={plain}:pass@k", f"VGS={guided}:MV")
    found = {(line[0], line[1]): line[6:] for line in lines[2:]}
    assert found["oracle", "2"] == ["100.0", "± 0.0"]
    assert found["VGS", "1"][-1] == "all"


def test_early_stopping_has_a_line_a_threshold(runs, tmp_path, capsys):
    lines = table(capsys, tmp_path, runs[0], "--early_stopping")
    stopped = {line[0]: line for line in lines if " > " in line[0]}
    assert len(stopped) == 19
    # One answer has 3/4 after one tree.
    assert stopped["plain MV, beta > 0.7"][1] == "1"
    assert stopped["plain MV, beta > 0.8"][1] == "2"


def test_costs_that_are_not_known_are_dashes(tmp_path, capsys):
    write_run(tmp_path / "old", PLAIN, contexts_generated=None, session_seconds=None)
    line = table(capsys, tmp_path, str(tmp_path / "old"))[2]
    assert [line[3], line[5]] == ["-", "-"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def refusal(capsys, *argv, output="p.svg"):
    with pytest.raises(SystemExit) as ended:
        frontier.run([*map(str, argv), "--output", output])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("scripts.frontier: error: ")


def test_two_curves_of_one_name_are_refused(runs, capsys):
    plain, guided = runs
    line = "RUNS 'plain MV' names two curves: give one of them another label"
    assert refusal(capsys, plain, f"plain MV={guided}:WMV") == line


def test_bad_input_is_one_line(runs, tmp_path, capsys):
    plain, _ = runs
    write_run(tmp_path / "other", {"a": PLAIN["a"]})
    line = f"RUNS {plain} and {tmp_path}/other are of different problems: 2 and 1, 1 in common"
    assert refusal(capsys, plain, tmp_path / "other") == line
    line = f"{tmp_path}/absent: there is no such file of records"
    assert refusal(capsys, tmp_path / "absent") == line
    line = "--output p.gif ends in none of .png, .pdf, .svg"
    assert refusal(capsys, plain, output="p.gif") == line
    plain_votes = {"a": ("1", [[("1", None)]])}
    write_run(tmp_path / "plain_votes", plain_votes)
    line = "RUNS plain_votes: BoN needs values (--scorer), which the responses lack"
    assert refusal(capsys, f"{tmp_path}/plain_votes:BoN") == line

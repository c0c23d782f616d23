"""`scripts.agreement` as a command."""

import json

import pytest

from scripts import agreement


def test_counts_each_combination_and_lists_disagreements(tmp_path, capsys):
    rows = [("1/2", "0.5", True), ("28%", "0.28", True), ("1", "2", False), ("1", "3", None)]
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "\n".join(json.dumps({"gold": g, "answer": a, "verdict": v}) for g, a, v in rows)
    )
    agreement.run([str(path), "--label", "verdict", "--disagreements"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2:] == [
        ["-", "different", "different", "1"],
        ["different", "different", "different", "1"],
        ["equal", "different", "equal", "1"],
        ["equal", "equal", "equal", "1"],
        ["label", "equal:", "'28%'", "|", "'0.28'"],
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"gold": "1", "answer": "1"}', "pairs.jsonl:1: no pair with 'label': KeyError('label')"),
        ("[", "pairs.jsonl:1: no pair with 'label'"),
        ('{"gold": 1, "answer": "1", "label": true}', "pairs.jsonl:1: gold and answer must be"),
        ('{"gold": "1", "answer": "1", "label": "yes"}', "label is 'yes', not true, false or null"),
        ("", "is empty"),
    ],
)
def test_names_the_line_that_is_no_pair(tmp_path, capsys, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(line)
    with pytest.raises(SystemExit) as exit_:
        agreement.run([str(path)])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err

import pytest

from run_lib.commands import InputError, differing_flags, exit_with_error, parse_shard


def test_differing_flags_are_named():
    saved, current = {"a": 1, "b": 2, "c": 3, "e": 0}, {"b": 5, "a": 1, "c": 4, "d": 6}
    assert differing_flags(saved, current, frozenset({"c"})) == [
        "--b 5 (was 2)",
        "--d 6 (was None)",
        "--e None (was 0)",
    ]
    assert differing_flags(saved, saved, frozenset()) == []


def test_an_error_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as exit_info:
        exit_with_error("program", "no such\n   file:\tx\n")
    assert exit_info.value.code == 2
    output = capsys.readouterr()
    assert output.err == "program: error: no such file: x\n"
    assert output.out == ""


def test_a_shard_is_one_of_so_many():
    assert [parse_shard(text) for text in ("0/1", "0/12", "11/12")] == [(0, 1), (0, 12), (11, 12)]
    for text in ("", "1", "1/1", "12/12", "-1/2", "0/0", "1/2/3", "a/b"):
        with pytest.raises(InputError, match=f"--shard {text}: expected i/n with i from"):
            parse_shard(text)

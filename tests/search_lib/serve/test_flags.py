"""The flags of the server."""

import pytest

from run_lib.commands import InputError
from search_lib.asking.flags import read_command_line
from search_lib.serve.args import PROGRAM, ServeFlags, UpstreamFlags
from tests.support.serving import flags_of


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("VGS_API_KEY", raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_an_address_of_this_machine_needs_no_key(host):
    flags_of(host=host).check()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "gpu-3.example.org", ""])
def test_any_other_address_needs_a_key(host):
    with pytest.raises(InputError, match=r"^--host .* needs --api_key, or .* VGS_API_KEY$"):
        flags_of(host=host).check()


@pytest.mark.parametrize("host", ["0.0.0.0", "gpu-3.example.org"])
def test_the_key_may_come_from_the_environment(host, monkeypatch):
    monkeypatch.setenv("VGS_API_KEY", "secret")
    flags = flags_of(host=host)
    flags.check()
    assert flags.key == "secret"


def test_the_key_may_come_from_a_file(tmp_path):
    path = tmp_path / "key"
    with pytest.raises(InputError, match=r"^--api_key .*No such file"):
        flags_of(host="0.0.0.0", api_key=f"@{path}").check()
    path.write_text("secret\n")
    flags = flags_of(host="0.0.0.0", api_key=f"@{path}")
    flags.check()
    assert flags.key == "secret"


def test_the_flag_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("VGS_API_KEY", "other")
    assert flags_of(api_key="mine").key == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"api_key": ""}, "^--api_key must be visible"),
        ({"api_key": "a b"}, "^--api_key must be visible"),
        ({"engine_flags": UpstreamFlags(api_key="a b")}, "^--upstream_api_key must be visible"),
        ({"port": 65_536}, "^--port must be in 0 to 65535, got 65536"),
        ({"max_budget": 7}, "--num_blocks 4 x --num_repetitions 2 is more than --max_budget 7"),
        ({"max_requests": 0}, "^--max_requests must be at least 1"),
        ({"max_queued": -1}, "^--max_queued must be at least 0"),
        ({"request_timeout": 0.0}, "^--request_timeout must be positive"),
        ({"served_model_name": "a\nb"}, "^--served_model_name "),
        ({"num_blocks": 3}, "^--num_blocks 3 is not divisible"),
    ],
)
def test_values_that_no_server_can_have(changes, message):
    with pytest.raises(InputError, match=message):
        flags_of(**changes).check()


def test_an_empty_key_in_the_environment_is_no_key(monkeypatch):
    monkeypatch.setenv("VGS_API_KEY", "")
    with pytest.raises(InputError, match=r"^VGS_API_KEY must be visible"):
        flags_of(host="0.0.0.0").check()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"piref_model": "deepseek-ai/R1"}, "R1"),
        ({"piref_model": "outputs/policy/"}, "policy"),
        ({"served_model_name": "mine"}, "mine"),
    ],
)
def test_the_policy_has_a_name(changes, name):
    assert flags_of(**changes).policy_name == name


def test_keys_are_not_shown():
    flags = ServeFlags(api_key="hidden-1", engine_flags=UpstreamFlags(api_key="hidden-2"))
    assert "hidden" not in repr(flags)


def parse(argv, monkeypatch):
    monkeypatch.setattr("sys.argv", ["serve", *argv])
    flags, _ = read_command_line(ServeFlags, PROGRAM, "A server.")
    return flags


def test_both_keys_have_flags(monkeypatch):
    argv = ["--piref_model", "p", "--api_key", "ours", "--upstream_api_key", "theirs"]
    flags = parse(argv, monkeypatch)
    assert (flags.api_key, flags.engine_flags.api_key) == ("ours", "theirs")


def test_without_a_model_the_toy_models_are_served_with_their_settings(tmp_path, monkeypatch):
    for folder in ("policy", "value_model/final"):
        (tmp_path / "outputs/quickstart" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    flags = parse(["--num_blocks", "8"], monkeypatch)
    assert flags.policy_name == "policy"
    assert (flags.block_size, flags.num_blocks) == (12, 8)

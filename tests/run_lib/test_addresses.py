import pytest

from run_lib.addresses import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.9", "::1", "localhost"])
def test_addresses_of_this_machine_alone(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "10.0.0.1", "128.0.0.1", "127.example.org", "localhost.org", "127.1"],
)
def test_addresses_that_others_may_reach(host):
    assert not is_loopback(host)

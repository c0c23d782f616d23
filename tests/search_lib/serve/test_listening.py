"""The address of the server."""

import socket

import pytest

from run_lib.commands import InputError
from search_lib.serve.server import open_socket, url_of


def test_an_address_that_is_taken_is_told():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"^--host 127.0.0.1 --port {port}: "):
            open_socket("127.0.0.1", port)


def test_an_address_of_another_machine_is_told():
    with pytest.raises(InputError, match=r"^--host 203.0.113.1 --port 0: "):
        open_socket("203.0.113.1", 0)


def test_nobody_is_let_in_before_the_models_are_there():
    with open_socket("127.0.0.1", 0) as listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname())


def test_localhost_is_the_address_that_all_clients_know():
    with open_socket("localhost", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_addresses_of_six_groups_have_brackets():
    try:
        listener = open_socket("::1", 0)
    except InputError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert url_of(listener).startswith("http://[::1]:")

"""The port of a server: one that will still be free when the server binds it."""

import random
import socket

from run_lib.ports import free_port


def test_a_port_that_is_taken_is_not_chosen(monkeypatch):
    taken = free_port()
    other = free_port()
    draws = iter([taken, taken, other])
    monkeypatch.setattr(random.SystemRandom, "randrange", lambda *_: next(draws))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken))
        assert free_port() == other


def test_a_port_that_is_promised_is_not_chosen(monkeypatch):
    promised, other = free_port(), free_port()
    draws = iter([promised, other])
    monkeypatch.setattr(random.SystemRandom, "randrange", lambda *_: next(draws))
    assert free_port(promised) == other


def test_no_program_is_given_the_port_by_chance():
    assert all(free_port() < 32_768 for _ in range(50))  # where Linux begins to give ports

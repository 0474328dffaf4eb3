"""Why a server cannot listen is said in words, and no library's."""

from __future__ import annotations

import socket

import pytest

from shared.listening import why_not


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "another program" in why_not(f"127.0.0.1:{taken.getsockname()[1]}")


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("203.0.113.7:7570", "no such address"),
        ("no-such-host.invalid:7570", "no-such-host.invalid"),
        ("127.0.0.1:70000", "HOST:PORT"),
        ("127.0.0.1:http", "HOST:PORT"),
    ],
)
def test_an_address_that_this_machine_has_not(listen: str, words: str) -> None:
    said = why_not(listen, RuntimeError("No address added out of total 1 resolved"))
    assert words in said
    assert "total" not in said


def test_what_was_raised_is_said_where_trying_finds_nothing() -> None:
    assert why_not("127.0.0.1:0", ValueError("a port too many")) == "a port too many"

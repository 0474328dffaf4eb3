"""Waiting for a channel, at servers that take connections and end them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from shared.errors import SessionError
from shared.rpc.channel import open_channel, wait_until_ready

EMPTY_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""A frame of HTTP/2 (RFC 9113, 6.5): with it the server's side of a connection begins."""


class Hasty:
    """Takes connections; ends each of the first ``ended`` as soon as it has begun."""

    def __init__(self, ended: int) -> None:
        self.ended = ended
        self.taken = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                one, _ = self._listener.accept()
                self.taken += 1
                with suppress(ConnectionError):
                    one.recv(4096)
                    one.sendall(EMPTY_SETTINGS)
                if self.taken <= self.ended:
                    one.close()
                else:
                    self._open.append(one)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for one in self._open:
            one.close()


@pytest.fixture
def hasty() -> Iterator[Hasty]:
    server = Hasty(ended=3)
    yield server
    server.close()


def test_what_is_connected_and_lost_at_once_is_connected_again(hasty: Hasty) -> None:
    """gRPC may tell nobody that there was a connection, and waits to be asked for the next one."""
    channel = open_channel(hasty.address)
    try:
        # It may also be seen while there is one, and then the caller finds that it has ended.
        while hasty.taken <= hasty.ended:
            wait_until_ready(channel, hasty.address, 20)
    finally:
        channel.close()


def test_where_nobody_listens_it_is_said_once_and_waited_no_longer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    said: list[SessionError] = []
    channel = open_channel(address)
    try:
        with pytest.raises(SessionError) as refused:
            wait_until_ready(channel, address, 2, failing=said.append)
    finally:
        channel.close()
    assert refused.value.reason == "unreachable"
    assert [one.reason for one in said] == ["unreachable"]

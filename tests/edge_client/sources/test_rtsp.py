"""RTSP from real servers: pictures, and a server that dies and comes back."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from edge_client.sources import CaptureThread, SourceOptions, open_source
from shared.backoff import Backoff
from shared.errors import SourceError
from tests.support.rtsp import RtspServer, two_halves, why_not

pytest.importorskip("av", reason="needs the extra stream")
# The one of rtsp-rs speaks UDP only; our default is TCP.
INPUT = {"gstreamer": {}, "rtsp-rs": {"rtsp_transport": "udp"}}
PATIENCE_S = 40.0


@pytest.fixture(params=["gstreamer", "rtsp-rs"])
def server(request: pytest.FixtureRequest) -> Iterator[RtspServer]:
    reason = why_not(request.param)
    if reason is not None:
        pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = RtspServer(request.param, port)
    server.start()
    yield server
    server.kill()


def test_pictures_come_and_come_again_after_the_server_was_killed(server: RtspServer) -> None:
    options = SourceOptions(input=INPUT[server.kind], timeout_s=2.0)
    source = open_source([server.url], options)
    with CaptureThread(source, backoff=Backoff(0.05, 0.5)) as captures:
        first = captures.take(PATIENCE_S)
        assert first is not None
        pixels = first.load()
        assert abs(pixels.astype(int) - two_halves()).mean() < 12
        assert abs(first.captured_at - time.time()) < 5
        server.kill()
        until = time.monotonic() + PATIENCE_S
        while captures.state != "away" and time.monotonic() < until:
            captures.take(0.1)
        assert captures.state == "away"
        assert captures.error is not None
        server.start()
        again = None
        while (again is None or captures.state != "running") and time.monotonic() < until:
            again = captures.take(0.5)
        assert again is not None
        assert captures.reconnects >= 1
    assert abs(again.load().astype(int) - two_halves()).mean() < 12


def test_a_server_that_takes_the_call_and_says_nothing_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtsp://me:s3cret@127.0.0.1:{silent.getsockname()[1]}/live"
        source = open_source([url], SourceOptions(timeout_s=0.5))
        with pytest.raises(SourceError, match=r"no answer within 0\.5 s") as caught:
            next(source.captures(threading.Event()))
    assert caught.value.reason == "source_away"
    assert "s3cret" not in caught.value.message

"""Motion JPEG from a real HTTP server."""

from __future__ import annotations

import base64
import threading
import time
from http.server import BaseHTTPRequestHandler

import pytest

from edge_client.sources import CaptureThread, SourceOptions, open_source
from shared.backoff import Backoff
from shared.errors import SourceError
from tests.support.http_server import http_server
from tests.support.motion_jpeg import camera


@pytest.mark.parametrize("lengths", [True, False])
def test_parts_are_pictures_with_the_cameras_times(lengths: bool) -> None:
    with http_server(lambda request: camera(request, pictures=5, lengths=lengths)) as server:
        port = server.server_address[1]
        source = open_source([f"http://127.0.0.1:{port}/stream?action=go"])
        captures = source.captures(threading.Event())
        taken = [next(captures) for _ in range(5)]
        with pytest.raises(SourceError, match="has ended the stream") as caught:
            next(captures)
    assert caught.value.reason == "source_away"
    url = f"http://127.0.0.1:{port}/stream"  # without its query
    assert [one.name for one in taken] == [f"{url}#{n}" for n in range(1, 6)]
    greys = [float(one.load().mean()) for one in taken]
    assert greys == pytest.approx([0, 10, 20, 30, 40], abs=2)
    assert all(1.5 < time.time() - one.captured_at < 20 for one in taken)


def test_a_server_that_goes_away_is_looked_for_and_counted() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        camera(request, pictures=3)

    with http_server(answer) as server:
        port = server.server_address[1]
        source = open_source([f"http://127.0.0.1:{port}/"])
        captures = CaptureThread(source, backoff=Backoff(0.01, 0.05))
        with captures:
            until = time.monotonic() + 30
            while captures.reconnects < 3 and time.monotonic() < until:
                captures.take(0.05)
            assert captures.reconnects >= 3  # after every three pictures
            assert captures.captured >= 6
            server.shutdown()
            server.server_close()
            while captures.state != "away" and time.monotonic() < until:
                captures.take(0.05)
            assert captures.state == "away"
            with http_server(answer, port):
                while captures.state != "running" and time.monotonic() < until:
                    captures.take(0.05)
                assert captures.state == "running"


def test_the_newest_picture_wins_and_those_it_overtook_are_counted() -> None:
    with http_server(lambda request: camera(request, pictures=24)) as server:
        source = open_source([f"http://127.0.0.1:{server.server_address[1]}/"])
        with CaptureThread(source, patience_s=0, backoff=Backoff(0.01, 0.02)) as captures:
            until = time.monotonic() + 30
            while captures.captured < 24 and time.monotonic() < until:
                time.sleep(0.01)
            newest = captures.take(1.0)
            assert newest is not None
            assert newest.name.endswith("#24")
            assert captures.take(0.0) is None
    assert captures.overtaken == 23
    assert captures.state == "failed"  # without patience the end of the stream is the end


def test_a_password_goes_to_the_server_and_nowhere_else() -> None:
    seen: list[str | None] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers.get("Authorization"))
        if seen[-1] is None:
            request.send_error(401)
        else:
            camera(request, pictures=1)

    with http_server(answer) as server:
        host = f"127.0.0.1:{server.server_address[1]}"
        with pytest.raises(SourceError) as caught:
            next(open_source([f"http://{host}/"]).captures(threading.Event()))
        assert caught.value.reason == "forbidden"
        source = open_source([f"http://me:s%40fe@{host}/"])
        assert next(source.captures(threading.Event())).name == f"http://{host}/#1"
    assert seen == [None, "Basic " + base64.b64encode(b"me:s@fe").decode()]


def test_what_is_no_stream_says_so() -> None:
    def page(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        request.end_headers()

    with http_server(page) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        with CaptureThread(open_source([url])) as captures:
            assert captures.take(5) is None
        assert captures.state == "failed"
        assert captures.error is not None
        assert captures.error.reason == "bad_source"


def test_a_stream_that_falls_silent_is_away() -> None:
    release = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        camera(request, pictures=1)
        release.wait(20)

    with http_server(answer) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        captures = open_source([url], SourceOptions(timeout_s=0.3)).captures(threading.Event())
        next(captures)
        with pytest.raises(SourceError, match="timed out") as caught:
            next(captures)
        release.set()
    assert caught.value.reason == "source_away"

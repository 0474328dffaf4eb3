"""Motion JPEG from a real HTTP server."""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest

from edge_client.sources import CaptureThread, SourceOptions, open_source
from shared.backoff import Backoff
from shared.errors import SourceError
from tests.support.http_server import http_server
from tests.support.motion_jpeg import camera, jpeg


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
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="a camera"')
            request.end_headers()
        else:
            camera(request, pictures=1)

    with http_server(answer) as server:
        host = f"127.0.0.1:{server.server_address[1]}"
        with pytest.raises(SourceError) as caught:
            next(open_source([f"http://{host}/"]).captures(threading.Event()))
        assert caught.value.reason == "forbidden"
        source = open_source([f"http://me:s%40fe@{host}/"])
        assert next(source.captures(threading.Event())).name == f"http://{host}/#1"
    # Neither is it sent before the camera asks for it.
    assert seen == [None, None, "Basic " + base64.b64encode(b"me:s@fe").decode()]


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


Habit = Callable[[BaseHTTPRequestHandler], None]


def says(status: int, kind: str | None, body: bytes = b"", **headers: str) -> Habit:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        if kind is not None:
            request.send_header("Content-Type", kind)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


HICCUPS = {
    "a page": says(200, "text/html", b"<html>The camera is starting</html>"),
    "wants a password": says(401, None),
    "forbids": says(403, None),
    "is busy": says(503, None),
    "nothing": says(200, None),
    "an empty stream": says(200, "multipart/x-mixed-replace; boundary=x"),
    "a circle": says(302, None, Location="/round"),
    "half a picture": says(200, "image/jpeg", jpeg(3)[:-200]),
    "damaged gzip": says(200, "image/jpeg", b"\x1f\x8b\x08nothing", Content_Encoding="gzip"),
}


@pytest.mark.parametrize("hiccup", HICCUPS.values(), ids=HICCUPS)
def test_what_has_given_pictures_is_looked_for_whatever_it_answers(hiccup: Habit) -> None:
    answers: list[Habit] = [lambda request: camera(request, pictures=2), hiccup]

    def answer(request: BaseHTTPRequestHandler) -> None:
        one = answers.pop(0) if answers else functools.partial(camera, pictures=2)
        if request.path == "/round":
            one = hiccup
        one(request)

    why: set[str] = set()
    with http_server(answer) as server:
        source = open_source([f"http://127.0.0.1:{server.server_address[1]}/"])
        with CaptureThread(source, backoff=Backoff(0.05, 0.1)) as captures:
            until = time.monotonic() + 30
            while captures.captured < 5 and time.monotonic() < until and not captures.ended:
                captures.take(0.01)
                if captures.error is not None:
                    why.add(captures.error.message)
            assert captures.captured >= 5
            assert not captures.ended
    assert len(why) >= 2  # the end of the stream, and the hiccup's own words


def test_a_snapshot_is_asked_for_as_often_as_pictures_are_wanted() -> None:
    asked: list[float] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(time.monotonic())
        says(200, "image/jpeg", jpeg(10 * len(asked)))(request)

    with http_server(answer) as server:
        source = open_source([f"http://127.0.0.1:{server.server_address[1]}/snap.jpg?id=1"])
        with CaptureThread(source, limit=lambda: 20.0) as captures:
            until, names = time.monotonic() + 30, list[str]()
            while len(names) < 6 and time.monotonic() < until:
                one = captures.take(0.5)
                names += [] if one is None else [one.name]
        assert len(names) == 6
        assert (captures.reconnects, captures.left_out) == (0, 0)
    # The first two come quickly where a snapshot is not known yet; never more often than wanted.
    assert asked[5] - asked[0] > 4 / 20 * 0.9


@pytest.mark.parametrize("kind", [None, "application/octet-stream", "image/jpg", "text/plain"])
def test_what_has_no_name_is_known_by_its_pictures(kind: str | None) -> None:
    stream = b"".join(b"--x\r\n\r\n" + jpeg(grey) + b"\r\n" for grey in (0, 100, 200))
    with http_server(says(200, kind, stream)) as server:
        source = open_source([f"http://127.0.0.1:{server.server_address[1]}/"])
        captures = source.captures(threading.Event())
        greys = [float(next(captures).load().mean()) for _ in range(3)]
        with pytest.raises(SourceError, match="has ended"):
            next(captures)
    assert greys == pytest.approx([0, 100, 200], abs=2)
    assert not source.polled


@pytest.mark.parametrize("kind", ["multipart/mixed; boundary=x", "Multipart/X-Mixed-Replace"])
@pytest.mark.parametrize("packed", [False, True])
def test_parts_of_every_kind_without_end_markers_and_packed(kind: str, packed: bool) -> None:
    """What ffmpeg and browsers show of cameras that never end a JPEG."""
    stream = b"".join(b"--x\r\nX: y\r\n\r\n" + jpeg(grey)[:-2] + b"\r\n" for grey in (0, 100, 200))
    body, headers = (
        (gzip.compress(stream), {"Content_Encoding": "gzip"}) if packed else (stream, {})
    )
    with http_server(says(200, kind, body, **headers)) as server:
        source = open_source([f"http://127.0.0.1:{server.server_address[1]}/"])
        captures = source.captures(threading.Event())
        greys = [float(next(captures).load().mean()) for _ in range(3)]
    assert greys == pytest.approx([0, 100, 200], abs=2)
    assert source.damaged == 0


@pytest.mark.parametrize("slow", ["headers", "half pictures"])
def test_bytes_that_trickle_are_no_pictures(slow: str) -> None:
    gone = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace\r\n"
        piece = b"X: y\r\n" if slow == "headers" else b"\r\n--x\r\n\r\n" + jpeg(7)[:-200]
        with contextlib.suppress(OSError):
            request.wfile.write(head if slow == "headers" else head + b"\r\n")
            while not gone.wait(0.05):
                request.wfile.write(piece)

    with http_server(answer) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        captures = open_source([url], SourceOptions(timeout_s=0.4)).captures(threading.Event())
        with pytest.raises(SourceError, match=r"no answer within|no JPEG that is whole") as caught:
            next(captures)
        gone.set()
    assert caught.value.reason == "source_away"


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


def test_proxies_of_the_environment_are_named_and_asked_for_no_local_camera(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://me:s3cret@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "192.0.2.0/24")

    def message(url: str) -> str:
        with pytest.raises(SourceError) as caught:
            next(open_source([url], SourceOptions(timeout_s=0.5)).captures(threading.Event()))
        return caught.value.message

    asked = message("http://198.51.100.7/video")
    assert "the proxy http://127.0.0.1:1; no_proxy" in asked
    assert "s3cret" not in asked
    assert "proxy" not in message("http://192.0.2.7/video")
    with http_server(lambda request: camera(request, pictures=1)) as server:
        source = open_source([f"http://127.0.0.1:{server.server_address[1]}/"])
        assert next(source.captures(threading.Event())).load().shape == (32, 48, 3)

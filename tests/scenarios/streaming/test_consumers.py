"""`featherwire-cloud results watch --to`: every result at least once, in order, over any end."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np

from edge_client.session import EdgeSession
from shared.bundle import Bundle
from tests.support.http_server import http_server
from tests.support.servers import FixedTask, ServerThread
from tests.support.streaming_edge import CLOUD, command, environment, run

Start = Callable[..., ServerThread]
COUNT = 30


def fill(server: ServerThread, bundle: Bundle) -> None:
    """Put results into the log."""
    with EdgeSession(server.address, device="cam", bundle=bundle.origin) as session:
        images = [np.full((64, 96, 3), number, np.uint8) for number in range(COUNT)]
        assert all(one.error is None for one in session.stream(images, state=4))


def test_a_watcher_that_is_killed_and_ended_again_and_again_delivers_all(
    start_server: Start, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    server = start_server({"one": lambda: FixedTask("one")})
    fill(server, tiny_bundle)
    got: list[int] = []
    enough = threading.Event()

    def hook(request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        got.append(body["data"]["cursor"])
        if len(got) in (7, 19):
            enough.set()
        # Now and then it is not well: the same comes again.
        request.send_response(503 if len(got) % 5 == 3 else 200)
        request.send_header("Content-Length", "0")
        request.end_headers()

    with http_server(hook) as web:
        words = (
            "results", "watch", "--server", server.address, "--after", 0,
            "--to", f"http://127.0.0.1:{web.server_address[1]}/", "--to", tmp_path / "r.jsonl",
            "--cursor-file", tmp_path / "cursor",
        )  # fmt: skip
        for how in (signal.SIGKILL, signal.SIGTERM):
            enough.clear()
            watcher = subprocess.Popen(command(CLOUD, *words), env=environment())
            assert enough.wait(60)
            watcher.send_signal(how)
            watcher.wait(30)
        at = int((tmp_path / "cursor").read_text())
        assert at >= 19 - 19 // 5 - 7  # what was delivered by then is not delivered from the start
        if at < COUNT:
            done = run(CLOUD, *words, "--limit", COUNT - at)
            assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    for seen in (got, [line["cursor"] for line in lines]):
        assert set(seen) == set(range(1, COUNT + 1))
        firsts = [cursor for n, cursor in enumerate(seen) if cursor not in seen[:n]]
        assert firsts == sorted(firsts)
    assert int((tmp_path / "cursor").read_text()) == COUNT


def test_a_sink_that_is_away_for_long_loses_nothing(
    start_server: Start, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    server = start_server({"one": lambda: FixedTask("one")})
    fill(server, tiny_bundle)
    seen: set[int] = set()
    refusals = 0

    def hook(request: BaseHTTPRequestHandler) -> None:
        nonlocal refusals
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        well = refusals >= 4
        refusals += not well
        if well:
            seen.add(body["data"]["cursor"])
        request.send_response(200 if well else 500)
        request.send_header("Content-Length", "0")
        request.end_headers()

    with http_server(hook) as web:
        done = run(
            CLOUD, "results", "watch", "--server", server.address, "--after", 0, "--limit", COUNT,
            "--to", f"http://127.0.0.1:{web.server_address[1]}/",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert seen == set(range(1, COUNT + 1))


def test_a_result_that_a_hook_never_takes_is_given_up_where_that_is_asked_for(
    start_server: Start, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    server = start_server({"one": lambda: FixedTask("one")})
    fill(server, tiny_bundle)
    seen: list[int] = []

    def hook(request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        cursor = body["data"]["cursor"]
        seen.append(cursor)
        request.send_response(500 if cursor == 4 else 200)
        request.send_header("Content-Length", "0")
        request.end_headers()

    with http_server(hook) as web:
        done = run(
            CLOUD, "results", "watch", "--server", server.address, "--after", 0, "--limit", COUNT,
            "--to", f"http://127.0.0.1:{web.server_address[1]}/", "--give-up-after", 0.5,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(seen) == set(range(1, COUNT + 1))
    assert seen.count(4) > 1
    assert "is given up after" in done.stderr


def test_a_cursor_file_that_is_none_is_wrong_usage(start_server: Start, tmp_path: Path) -> None:
    server = start_server()
    (tmp_path / "cursor").write_text("not a number")
    words = ("results", "watch", "--server", server.address, "--cursor-file", tmp_path / "cursor")
    for more in ((), ("--to", tmp_path / "r.jsonl")):
        done = run(CLOUD, *words, *more)
        assert done.returncode == 2
        assert "[bad_option]" in done.stderr

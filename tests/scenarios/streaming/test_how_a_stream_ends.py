"""A stream that is told to end ends soon and in good order, whoever tells it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from shared.bundle import Bundle
from tests.support.http_server import http_server
from tests.support.servers import FixedTask, ServerThread
from tests.support.speaking_edge import begun, speaking
from tests.support.streaming_edge import EDGE, END_S, command, environment, jpeg

Start = Callable[..., ServerThread]
LONG_S = 120.0


@pytest.fixture
def words(tiny_bundle: Bundle, tmp_path: Path) -> tuple[object, ...]:
    (tmp_path / "a.jpg").write_bytes(jpeg(10))
    return (tmp_path / "a.jpg", "--loop", "--fps", 5, "--bundle", tiny_bundle.origin)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_neither_slow_results_nor_a_sink_that_hangs_hold_it_up(
    number: signal.Signals, start_server: Start, words: tuple[object, ...], tmp_path: Path
) -> None:
    server = start_server({"one": lambda: FixedTask("one", 0.0)})
    slow = start_server({"one": lambda: FixedTask("one", LONG_S)})

    def never(request: BaseHTTPRequestHandler) -> None:
        time.sleep(LONG_S)

    with http_server(never) as hook:
        url = f"http://127.0.0.1:{hook.server_address[1]}/"
        out = tmp_path / "out.jsonl"
        to = ("--to", url, "--to", out, "--server", server.address)
        with speaking(*words, *to) as stream:
            stream.until(lambda: out.exists() and out.read_text().count("\n") >= 3)
            assert stream.end(number, timeout_s=LONG_S / 4) == 1  # the hook has nothing
        assert stream.count("did not get") == 1
        with speaking(*words, "--server", slow.address, "--to", url) as stream:
            stream.until_said("connected to ")
            stream.end(number, timeout_s=LONG_S / 4)
        assert stream.lines[-1].startswith(("ended: ", "error: "))


def test_it_ends_in_good_order_while_it_still_waits_for_its_first_server(
    words: tuple[object, ...], tmp_path: Path
) -> None:
    with speaking(*words, "--server", "127.0.0.1:1", "--timeout", LONG_S) as stream:
        stream.until_said("not connected: ")
        assert stream.end(timeout_s=LONG_S / 4) == 0
    assert stream.lines[-1] == "ended: 0 frames, 0 results"


def test_a_terminal_that_is_closed_ends_it_and_the_document_is_put_together(
    start_server: Start, words: tuple[object, ...], tmp_path: Path
) -> None:
    server = start_server({"one": lambda: FixedTask("one")})
    document, results = tmp_path / "found.coco.json", tmp_path / "out.jsonl"
    arguments = command(EDGE, "stream", *words, "--server", server.address, "--to", document,
                        "--to", results)  # fmt: skip
    terminal, its_end = os.openpty()
    process = subprocess.Popen(
        [*begun("signal.signal(signal.SIGHUP, signal.SIG_DFL); fcntl.ioctl(0, termios.TIOCSCTTY)"),
         *arguments],
        env={**environment(), "TERM": "xterm"},
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    )  # fmt: skip
    os.close(its_end)
    deadline = time.monotonic() + END_S
    while not (results.exists() and results.read_text().count("\n") >= 3):
        os.read(terminal, 65536)
        assert time.monotonic() < deadline
    os.close(terminal)
    assert process.wait(END_S) == 0
    assert len(json.loads(document.read_text())["images"]) >= 3


def test_under_nohup_it_goes_on(
    start_server: Start, words: tuple[object, ...], tmp_path: Path
) -> None:
    server = start_server({"one": lambda: FixedTask("one")})
    out = tmp_path / "out.jsonl"
    with speaking(*words, "--server", server.address, "--to", out, hangup_ignored=True) as stream:
        stream.until(out.exists)
        stream.process.send_signal(signal.SIGHUP)
        before = out.read_text().count("\n")
        stream.until(lambda: out.read_text().count("\n") > before + 3)
        assert stream.end() == 0


def test_when_nobody_reads_what_it_prints_it_ends_without_a_traceback(
    start_server: Start, words: tuple[object, ...]
) -> None:
    server = start_server({"one": lambda: FixedTask("one")})
    read, write = os.pipe()
    os.close(read)
    with speaking(*words, "--server", server.address, stdout=write) as stream:
        os.close(write)
        assert stream.end(None) == 1
    assert stream.count("Traceback") == 0, stream.lines

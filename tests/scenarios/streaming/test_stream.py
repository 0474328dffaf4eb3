"""`featherwire-edge stream` beside a real server: sources, limits, commands, and its end."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cloud_server.consumers import ResultClient
from cloud_server.fleet.client import FleetClient
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import fleet_pb2
from tests.support.fleet import named
from tests.support.http_server import http_server
from tests.support.motion_jpeg import camera
from tests.support.servers import FixedTask, ServerThread
from tests.support.streaming_edge import EDGE, jpeg, run, streaming

Start = Callable[..., ServerThread]


@pytest.fixture
def to(start_server: Start, tiny_bundle: Bundle) -> tuple[object, ...]:
    """Options for a server with one task."""
    server = start_server({"one": lambda: FixedTask("one")})
    return ("--server", server.address, "--bundle", tiny_bundle.origin, "--device", "cam")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_watched_folder_is_sent_and_files_move_on(to: tuple[object, ...], tmp_path: Path) -> None:
    inbox, sent = tmp_path / "inbox", tmp_path / "sent"
    inbox.mkdir()
    (inbox / "a.jpg").write_bytes(jpeg(10))
    (inbox / "broken.jpg").write_bytes(jpeg(10)[:300])
    with streaming(inbox, *to, "--move-to", sent, "--to", tmp_path / "r.csv") as stream:
        stream.until(lambda: len(stream.results) == 1)
        (inbox / "b.jpg").write_bytes(jpeg(20))
        stream.until(lambda: len(stream.results) == 2)
        stream.until(lambda: (sent / "b.jpg").exists())
        (inbox / "b.jpg").write_bytes(jpeg(30))  # the name again: nothing is overwritten
        stream.until(lambda: (sent / "b-1.jpg").exists())
        status, end = stream.end()
    assert status == 1  # broken.jpg
    assert sorted(path.name for path in sent.iterdir()) == ["a.jpg", "b-1.jpg", "b.jpg"]
    assert [path.name for path in inbox.iterdir()] == ["broken.jpg"]
    assert end["dropped"] == {"unreadable": 1}
    assert (end["sent"], end["results"], end["queue"]["frames"]) == (3, 3, 0)
    assert all(one["analysis"]["tasks"]["one"]["detections"] for one in stream.results)
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [row["class"] for row in rows] == ["thing"] * 3


def test_of_a_fast_camera_the_newest_pictures_go_and_ctrl_c_ends_it(
    start_server: Start, tiny_bundle: Bundle
) -> None:
    slow = start_server({"one": lambda: FixedTask("one", delay_s=0.3)})
    with http_server(lambda request: camera(request, pictures=10_000)) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        options = ("--server", slow.address, "--bundle", tiny_bundle.origin, "--window", 2)
        with streaming(url, *options) as stream:
            stream.until(lambda: len(stream.results) >= 8)
            stream.until(lambda: stream.statuses[-1]["dropped"].get("overtaken", 0) > 20)
            status, end = stream.end(signal.SIGINT)
    assert status == 0
    assert end["queue"] == {"frames": 0, "bytes": 0, "awaited": 0}
    assert end["results"] == end["sent"]
    sent = sorted(stream.results, key=lambda one: one["sequence"])
    numbers = [int(one["source"].rpartition("#")[2]) for one in sent]
    assert sorted(numbers) == numbers
    assert numbers[-1] > 2 * len(numbers)  # it has kept up, by leaving out
    # The camera's clock is 2 s behind: its word for the time is kept through all of it.
    assert all(one["captured_at"] < one["completed_at"] for one in stream.results)


def test_a_limit_and_an_operators_rate_hold_on_a_live_stream(to: tuple[object, ...]) -> None:
    with http_server(lambda request: camera(request, pictures=10_000, pause_s=0.02)) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        with (
            streaming(url, *to, "--fps", 10, "--state", 1) as stream,
            FleetClient(str(to[1])) as operator,
        ):
            stream.until(lambda: len(stream.results) >= 10)
            assert {one["state"] for one in stream.results} == {1}
            assert stream.statuses[-1]["dropped"]["limit"] > 5
            policy = fleet_pb2.RatePolicy(state=3, max_frames_per_second=2)
            operator.send(
                named("cam"), fleet_pb2.Command(set_rate=fleet_pb2.SetRate(policy=policy))
            )
            stream.until(lambda: stream.results[-1]["state"] == 3)
            before, began = len(stream.results), time.monotonic()
            stream.until(lambda: len(stream.results) >= before + 6)
            assert time.monotonic() - began > 1.5  # two a second, not ten
            status, _ = stream.end()
    assert status == 0


def test_still_pictures_are_left_out(to: tuple[object, ...], tmp_path: Path) -> None:
    greys = [0] * 5 + [90, 90] + [0] * 3
    for number, grey in enumerate(greys):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(grey, width=20))
    with streaming(f"{tmp_path}/*.jpg", *to, "--motion", 0.2, "--still-every", 0) as stream:
        status, end = stream.end(None)
    assert status == 0
    assert end["dropped"] == {"still": 7}
    assert sorted(Path(one["source"]).stem for one in stream.results) == ["0", "5", "7"]


def test_jpegs_on_standard_input_all_arrive(to: tuple[object, ...]) -> None:
    read, write = os.pipe()
    with streaming("-", *to, stdin=read) as stream:
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            for number in range(30):
                pipe.write(jpeg(8 * number))
        status, end = stream.end(None)
    assert status == 0
    # Results come as they are completed.
    numbers = sorted(int(one["source"].removeprefix("stdin#")) for one in stream.results)
    assert numbers == list(range(1, 31))
    assert end["dropped"] == {}


def test_what_no_server_takes_is_in_the_spool_or_is_said_to_be_lost(
    start_server: Start, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    words = (f"{tmp_path}/*.jpg", "--bundle", tiny_bundle.origin, "--timeout", 0.5)
    nobody = f"127.0.0.1:{free_port()}"
    with streaming(*words, "--server", nobody) as stream:
        status, end = stream.end(None)
    assert (status, end["queue"]["frames"]) == (4, 3)
    spool = tmp_path / "spool"
    with streaming(*words, "--server", nobody, "--spool", spool) as stream:
        status, end = stream.end(None)
    assert (status, end["queue"]["frames"]) == (0, 3)
    server = start_server({"one": lambda: FixedTask("one")})
    done = run(EDGE, "flush", "--server", server.address, "--spool", spool, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"round_trip_ms"') == 3


def test_a_dead_sink_slows_nothing_down(to: tuple[object, ...], tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))

    def never(request: BaseHTTPRequestHandler) -> None:
        time.sleep(30)

    with http_server(never) as server:
        hook = f"http://127.0.0.1:{server.server_address[1]}/"
        out = tmp_path / "out.jsonl"
        began = time.monotonic()
        with streaming(f"{tmp_path}/*.jpg", *to, "--to", hook, "--to", out, "--grace", 1) as stream:
            stream.until(lambda: len(stream.results) == 20)
            assert time.monotonic() - began < 29
            status, end = stream.end(None)
    assert status == 1  # all files are done, and one sink has them not
    assert end["sinks"][str(out)]["delivered"] == 20
    assert end["sinks"][hook.rstrip("/")]["dropped_end"] == 20
    assert len(out.read_text().splitlines()) == 20


def test_the_same_file_again_and_again_is_a_camera(to: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    with streaming(tmp_path / "a.jpg", *to, "--loop", "--fps", 50, "--spool", tmp_path / "s",
                   "--bandwidth", "64k") as stream:  # fmt: skip
        stream.until(lambda: len(stream.results) >= 20)
        status, end = stream.end()
    assert status == 0
    assert end["round_trip_ms"] > 0
    assert end["bits_per_pixel"] > 0


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("ftp://host/x",), 2, "unknown_scheme"),
        (("rtsp:///",), 2, "bad_source"),
        (("absent.mp4",), 1, "not_found"),
        (("notes.mp4",), 1, "unreadable"),
        (("a.jpg", "--to", "results.txt"), 2, "unknown_sink"),
        (("a.jpg", "--to", "mqtt://host/#"), 2, "bad_sink"),
        (("a.jpg", "--tasks", "nonsense"), 2, "unknown_task"),
        (("http://127.0.0.1:1/", "--source-patience", 0.5), 1, "source_away"),
    ],
)
def test_what_is_wrong_has_its_exit_code(
    words: tuple[object, ...], code: int, reason: str, to: tuple[object, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "notes.mp4").write_text("no video\n" * 500)
    done = run(EDGE, "stream", *words, *to, "--quiet")
    assert done.returncode == code, done.stderr
    assert f"[{reason}]" in done.stderr
    assert done.stdout == ""


def test_people_get_a_line_a_result(
    to: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    monkeypatch.setenv("FEATHERWIRE_SOURCE", str(tmp_path / "a.jpg"))
    done: subprocess.CompletedProcess[str] = run(EDGE, "stream", *to)
    assert done.returncode == 0, done.stderr
    assert "1 thing" in done.stdout
    assert "state 0" in done.stdout


def test_results_have_their_place_in_the_log_and_the_pictures_time(
    start_server: Start, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Also those of frames that an earlier process has spooled, and of `send`."""
    taken = {f"{number}.jpg": 1_600_000_000 + number for number in range(4)}
    for name, at in taken.items():
        (tmp_path / name).write_bytes(jpeg(at % 100))
        os.utime(tmp_path / name, (at, at))
    words = ("--bundle", tiny_bundle.origin, "--device", "cam", "--timeout", 0.5)
    spool = ("--spool", tmp_path / "spool")
    nobody = f"127.0.0.1:{free_port()}"
    with streaming(*(tmp_path / f"{n}.jpg" for n in (0, 1)), *words, *spool,
                   "--server", nobody) as stream:  # fmt: skip
        assert stream.end(None)[0] == 0
    server = start_server({"one": lambda: FixedTask("one")})
    with streaming(tmp_path / "2.jpg", *words, *spool, "--server", server.address) as stream:
        assert stream.end(None)[0] == 0
    out = tmp_path / "out.jsonl"
    coco = tmp_path / "out.coco.json"
    done = run(EDGE, "send", tmp_path / "3.jpg", *words, "--server", server.address,
               "--to", out, "--to", coco)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [*stream.results, json.loads(out.read_text())]
    with ResultClient(server.address) as client:
        log = {one.cursor: (one.device, one.session, one.sequence) for one in client.list()}
    assert {one["cursor"]: (one["device"], one["session"], one["sequence"]) for one in found} == log
    assert len(log) == 4
    for one in found:
        at = datetime.fromisoformat(one["captured_at"]).timestamp()
        assert at == taken[Path(one["source"]).name]
    (image,) = json.loads(coco.read_text())["images"]
    assert image["date_captured"] == found[-1]["captured_at"]


def test_a_sink_that_cannot_be_gone_on_with_keeps_no_camera_from_streaming(
    to: tuple[object, ...], tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "r.csv").write_text("mine\n")
    (tmp_path / "r.coco.json").write_text("mine")
    where = ("--to", tmp_path / "r.csv", "--to", tmp_path / "r.coco.json")
    done = run(EDGE, "stream", tmp_path / "a.jpg", *to, *where)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("a new one begins") == 2
    assert (tmp_path / "r.1.csv").read_text() == "mine\n"
    assert (tmp_path / "r.1.coco.json").read_text() == "mine"
    assert "thing" in (tmp_path / "r.csv").read_text()
    assert json.loads((tmp_path / "r.coco.json").read_text())["annotations"]

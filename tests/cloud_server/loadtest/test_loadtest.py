"""Simulated devices against real servers: every frame has one result, also over their ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_server.auth.tokens import Role
from cloud_server.loadtest import LoadTest, Report, run_load_test
from cloud_server.loadtest.device import load_streams, opener
from shared.bitstream import FORMAT_VERSIONS
from shared.bundle import packaged_bundle_of
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.rpc.access import Access
from shared.wire.features import header_of
from tests.support.access import Keys
from tests.support.scripted_server import Requests, ScriptedServer, say, welcome
from tests.support.servers import FixedTask, server_process

QUICK = LoadTest(devices=4, fps=10, seconds=2, ramp_s=0.2, grace_s=30, tasks=("quick",))


def loadtest(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = "from cloud_server.cli import main; main()"
    command = [sys.executable, "-c", program, "loadtest", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def load(test: LoadTest, address: str, stream: Path, access: Access | None = None) -> Report:
    callers = [
        (f"load-{number}", opener(address, access or Access())) for number in range(test.devices)
    ]
    return asyncio.run(run_load_test(test, callers, load_streams([stream])))


def test_what_is_sent_without_files_is_of_a_packaged_bundle() -> None:
    streams = load_streams()
    assert len(streams) == 3
    for stream in streams:
        bundle = packaged_bundle_of(stream.bundle_short_id)
        assert bundle is not None, "encode them again: cloud_server/loadtest/recorded/README.md"
        assert bundle.manifest.name == "picture"


def test_every_frame_has_one_result(start_server: Any, stream: Path) -> None:
    server = start_server({"quick": lambda: FixedTask("quick")})
    report = load(QUICK, server.address, stream)
    assert report.whole
    assert report.connections == QUICK.devices
    assert report.results == report.acknowledged == report.sent > QUICK.devices
    assert not report.frame_errors
    assert not report.stream_errors
    for latencies in (report.ack_ms, report.result_ms):
        assert 0 < latencies["p50"] <= latencies["p95"] <= latencies["p99"] <= latencies["max"]
    assert report.frames_per_second > 0
    measured = report.bytes_per_second * report.seconds / len(stream.read_bytes())
    assert measured == pytest.approx(round(measured), abs=0.1)
    assert QUICK.devices < measured <= report.sent


def test_devices_send_no_faster_than_they_are_told(start_server: Any, stream: Path) -> None:
    server = start_server({"quick": lambda: FixedTask("quick")})
    test = LoadTest(devices=2, fps=2, seconds=3, ramp_s=0, tasks=("quick",))
    report = load(test, server.address, stream)
    assert 2 <= report.sent <= 2 * (2 * 3 + 2)


def test_credits_are_honoured_and_what_has_none_is_skipped(start_server: Any, stream: Path) -> None:
    """A task of 50 ms behind two credits: the server would end a stream that took more."""
    server = start_server({"quick": lambda: FixedTask("quick", delay_s=0.05)}, credits=2)
    test = LoadTest(devices=2, fps=100, seconds=2, ramp_s=0, tasks=("quick",))
    report = load(test, server.address, stream)
    assert report.whole
    assert report.skipped > report.results
    assert not report.stream_errors


def test_errors_are_counted_by_reason(start_server: Any, stream: Path) -> None:
    server = start_server({"quick": lambda: FixedTask("quick")})
    test = LoadTest(devices=1, fps=5, seconds=1, ramp_s=0, tasks=("no_such_task",))
    report = load(test, server.address, stream)
    assert report.frame_errors == {"unknown_task": report.results}
    assert report.frames_per_second == 0


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_a_server_that_is_killed_costs_no_frame(
    stream: Path, tiny_bundle: Any, tmp_path: Path, port: int
) -> None:
    """SIGKILL in the middle; one with the same log takes its place on the same port."""
    words = ("--bundle", str(tiny_bundle.origin), "--bundles", "none", "--tasks", "none")
    words += ("--data", str(tmp_path / "log"), "--listen", f"127.0.0.1:{port}")

    async def main() -> Report:
        callers = [(f"load-{n}", opener(f"127.0.0.1:{port}", Access())) for n in range(8)]
        test = LoadTest(devices=8, fps=20, seconds=60, ramp_s=0, grace_s=60, tasks=())
        killed = asyncio.Event()
        finished = asyncio.Event()

        def progress(elapsed_s: float, tally: Any) -> None:
            if tally.connections >= 8 and tally.results > 30:
                killed.set()
            if tally.connections >= 16 and tally.results > 100:
                finished.set()

        with server_process(*words) as (first, _):
            running = asyncio.create_task(
                run_load_test(test, callers, load_streams([stream]), progress, finished)
            )
            await killed.wait()
            first.send_signal(signal.SIGKILL)
            first.wait()
        await asyncio.sleep(0.3)
        opening = server_process(*words)
        await asyncio.to_thread(opening.__enter__)
        try:
            return await running
        finally:
            opening.__exit__(None, None, None)

    report = asyncio.run(main())
    assert report.whole
    assert report.connections >= 16
    assert report.stream_errors["unreachable"] >= 8
    assert report.results == report.sent


@pytest.mark.parametrize(("times", "which"), [(2, "doubled"), (0, "lost")])
def test_what_a_bad_server_does_is_seen(stream: Path, times: int, which: str) -> None:
    streams = load_streams([stream])
    taken = streams[0].bundle_short_id.hex() + "0" * 48

    def answer(
        number: int, hello: ingest_pb2.Hello, requests: Requests
    ) -> Iterator[ingest_pb2.ConnectResponse]:
        yield welcome(hello, credits=1000, bundle_id=taken, format_versions=FORMAT_VERSIONS)
        result_id = 0
        for request in requests:
            if request.HasField("bye"):
                return
            for _ in range(times):
                result_id += 1
                first = request.frame.features[0]
                yield say(
                    result=ingest_pb2.Result(
                        sequence=request.frame.sequence,
                        result_id=result_id,
                        state=header_of(first).state,
                        bundle_short_id=first.bundle_short_id,
                    )
                )

    test = LoadTest(devices=1, fps=10, seconds=1, ramp_s=0, grace_s=1, tasks=())
    with ScriptedServer(answer) as server:
        report = load(test, server.address, stream)
    assert not report.whole
    assert getattr(report, which) == report.sent > 0


def test_tokens_let_devices_in_each_under_its_name(
    start_server: Any, keys: Keys, stream: Path, tmp_path: Path
) -> None:
    lines = [f"cam-{n} {keys.token(Role.DEVICE, device=f'cam-{n}')}" for n in range(2)]
    (tmp_path / "tokens").write_text("\n".join(lines) + "\n")
    one = keys.token(Role.DEVICE, device="cam-7")
    (tmp_path / "token").write_text(one)
    server = start_server({"quick": lambda: FixedTask("quick")}, **keys.server)
    common = ["--server", server.address, "--tls-ca", keys.folder / "ca.pem", "--file", stream]
    common += ["--devices", "3", "--seconds", "1", "--ramp", "0", "--tasks", "quick", "--json"]
    each = loadtest(*common, "--tokens", tmp_path / "tokens")
    assert each.returncode == 0, each.stderr
    assert each.stderr.startswith("warming up: "), each.stderr
    assert json.loads(each.stdout)["connections"] == 3
    shared = loadtest(*common, "--token-file", tmp_path / "token", "--device", "cam-7")
    assert shared.returncode == 0, shared.stderr
    other = loadtest(*common, "--token-file", tmp_path / "token", "--device", "cam-8")
    assert other.returncode == 4
    assert "[wrong_device]" in other.stderr
    unnamed = loadtest(*common, "--token-file", tmp_path / "token")
    assert unnamed.returncode == 2


def test_other_machines_are_left_alone_unless_told() -> None:
    done = loadtest("--server", "192.0.2.1:7570", "--devices", "1")
    assert done.returncode == 2
    assert "--yes" in done.stderr


def test_no_server_is_exit_status_4(port: int) -> None:
    words = ["--server", f"127.0.0.1:{port}", "--devices", "1", "--seconds", "0.5", "--grace", "0"]
    done = loadtest(*words, "--ramp", "0", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["reason"] == "unreachable"


def test_streams_that_the_server_does_not_take_are_said(start_server: Any) -> None:
    server = start_server()
    words = ["--server", server.address, "--devices", "1", "--seconds", "0.5", "--grace", "0"]
    done = loadtest(*words)  # the packaged streams, and the server has the tiny bundle alone
    assert done.returncode == 4
    assert "[bundle_mismatch]" in done.stderr


def test_a_damaged_stream_is_said_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.fwf").write_bytes(b"no stream")
    with pytest.raises(FeatherwireError, match=r"bad\.fwf") as found:
        load_streams([tmp_path / "bad.fwf"])
    assert found.value.reason == "bad_magic"


def test_a_server_that_does_less_than_is_due_is_said_to(start_server: Any, stream: Path) -> None:
    server = start_server({"slow": lambda: FixedTask("slow", 0.1)})
    test = LoadTest(devices=4, fps=20, seconds=3, ramp_s=0.2, grace_s=60, tasks=("slow",))
    report = load(test, server.address, stream)
    assert report.whole
    assert not report.frame_errors
    assert report.skipped
    assert report.hint is not None
    assert "slowed the devices down" in report.hint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_report(
    start_server: Any, stream: Path, number: signal.Signals
) -> None:
    server = start_server({"quick": lambda: FixedTask("quick")})
    program = "from cloud_server.cli import main; main()"
    options = ["--server", server.address, "--devices", "3", "--fps", "20", "--seconds", "600"]
    options += ["--tasks", "quick", "--file", str(stream), "--ramp", "0.1", "--json"]
    command = [sys.executable, "-c", program, "loadtest", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        seen = server.server._metrics.registry
        deadline = time.monotonic() + 120
        while not seen.get_sample_value(
            "featherwire_tasks_total", {"task": "quick", "outcome": "ok"}
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    report = json.loads(printed)
    assert report["whole"]
    assert report["results"] == report["sent"] > 0


def test_a_signal_ends_it_while_its_server_says_nothing() -> None:
    def silent(
        number: int, hello: ingest_pb2.Hello, requests: Requests
    ) -> Iterator[ingest_pb2.ConnectResponse]:
        bundle = packaged_bundle_of(load_streams()[0].bundle_short_id)
        assert bundle is not None
        yield welcome(hello, bundle_id=bundle.id)
        sent.set()
        for _ in requests:
            pass

    sent = threading.Event()
    enough = asyncio.Event()
    test = LoadTest(devices=2, fps=20, seconds=600, ramp_s=0.0, grace_s=600, tasks=("quick",))

    async def run(address: str) -> Report:
        callers = [(f"load-{number}", opener(address, Access())) for number in range(2)]
        running = asyncio.create_task(run_load_test(test, callers, load_streams(), enough=enough))
        await asyncio.to_thread(sent.wait, 60)
        await asyncio.sleep(0.5)
        enough.set()
        return await asyncio.wait_for(running, 60)

    with ScriptedServer(silent) as server:
        report = asyncio.run(run(server.address))
    assert report.lost == report.sent > 0

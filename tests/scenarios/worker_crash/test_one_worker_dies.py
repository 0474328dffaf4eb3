"""What a worker's death costs: no frame, but one that kills every worker it meets."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from cloud_server.consumers import ResultClient
from cloud_server.engine import processes as process_engine
from cloud_server.engine.processes import ProcessEngine
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import results_pb2
from shared.wire import PictureRequest
from tests.support import fragile
from tests.support.metrics import scraped
from tests.support.raw_client import RawClient
from tests.support.servers import FixedTask, ServerThread

StartServer = Callable[..., ServerThread]
FRAGILE = {"fragile": fragile.open_fragile}
PATIENCE_S = 60


def picture(encoder: EdgeEncoder, width: int) -> Bitstream:
    return encoder.encode(np.random.default_rng(width).integers(0, 255, (48, width, 3), np.uint8))


def pids(server: ServerThread) -> list[int]:
    """Of the workers that run now."""
    assert isinstance(server.engine, ProcessEngine)
    return [slot.child.pid for slot in server.engine._slots if slot.child is not None]


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_frames_pictures_and_metrics_are_those_of_threads(
    start_server: StartServer, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATHERWIRE_TOKEN", "hush-hush")
    threads = start_server(FRAGILE)
    processes = start_server(FRAGILE, workers=2, metrics="127.0.0.1:0")
    assert {name: one.on_pictures for name, one in processes.engine.tasks.items()} == {
        "fragile": True
    }
    found = {}
    for server in (threads, processes):
        with EdgeSession(server.address, device="camera", bundle=tiny_bundle.origin) as session:
            result = session.send(
                np.full((48, 64, 3), 90, np.uint8), tasks=["fragile", "smell"],
                picture=PictureRequest(),
            )  # fmt: skip
            with ResultClient(server.address) as client:
                record = next(iter(client.records()))
                key = results_pb2.FrameKey(
                    device="camera", session=record.session, sequence=result.sequence
                )
                _, stored = client.stored(key, picture=PictureRequest())
        assert stored is not None
        assert result.analysis is not None
        assert result.picture is not None
        model = result.analysis.tasks["fragile"].model[0]
        assert (model.version == str(os.getpid())) == (server is threads)
        assert result.analysis.milliseconds["total"] > 0
        found[server] = (
            result.picture.data, stored.data, result.analysis.payload_bytes,
            {name: error.reason for name, error in result.task_errors.items()},
        )  # fmt: skip
    assert found[threads] == found[processes]
    value = scraped(processes)
    assert value("featherwire_worker_processes") == 2
    assert value("featherwire_stage_seconds_count", stage="task.fragile") == 1
    assert value("featherwire_stage_items", stage="workers") == 0
    workers = pids(processes)
    environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in workers]
    assert not any(b"hush-hush" in one for one in environments), "workers read what strangers sent"
    processes.stop()
    assert processes.join()
    assert all(map(gone, workers))


@pytest.mark.parametrize("width", [fragile.KILLS, fragile.SEGFAULTS, fragile.EXITS])
def test_a_frame_that_kills_its_worker_is_answered_and_the_others_go_on(
    start_server: StartServer, encoder: EdgeEncoder, width: int
) -> None:
    with capture_logs() as logs:
        server = start_server(FRAGILE, workers=2, metrics="127.0.0.1:0", credits=16)
        client = RawClient(server.address)
        client.hello(device="camera", session="poison")
        for sequence in range(1, 13):
            bitstream = picture(encoder, width if sequence == 5 else 32)
            client.frame(sequence, bitstream, tasks=("fragile",))
        results = {one.sequence: one for one in client.wait_for("result", 12, PATIENCE_S)}
        client.close()
    assert sorted(results) == list(range(1, 13))
    for sequence, result in results.items():
        if sequence == 5:
            assert result.outcome.error.reason == "worker_crashed"
        else:
            assert "fragile" in result.outcome.analysis.tasks
    cause = {
        fragile.KILLS: "SIGKILL", fragile.SEGFAULTS: "SIGSEGV", fragile.EXITS: "exit 7",
    }[width]  # fmt: skip
    deaths = [one for one in logs if one["event"] == "worker_died"]
    assert {one["cause"] for one in deaths} == {cause}
    alone = 5 if cause == "SIGKILL" else 2
    assert alone <= len(deaths) <= 1 + alone, "with others, then alone"
    value = scraped(server)
    assert value("featherwire_worker_deaths_total", cause=cause) == len(deaths)
    assert value("featherwire_frames_resubmitted_total") >= 1
    if width == fragile.SEGFAULTS:
        said = [one for one in logs if one["event"] == "worker_wrote"]
        assert "about to fall" in [one["text"] for one in said]
        assert any("Segmentation fault" in one["text"] for one in said), "where it fell"
        assert {one["worker"] for one in said} <= {0, 1}
    wait_until(lambda: len(pids(server)) == 2)


def test_a_server_without_any_worker_is_not_ready_until_one_is_back(
    start_server: StartServer, encoder: EdgeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_engine, "GRACE_S", 0.2)
    server = start_server(FRAGILE, workers=1)
    client = RawClient(server.address)
    client.hello(device="camera", session="waits")
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def status() -> int:
            return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status)

        serving = health_pb2.HealthCheckResponse.SERVING
        assert status() == serving
        (pid,) = pids(server)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not pids(server))
        # It takes seconds to load a worker; what comes meanwhile waits, and is not refused.
        client.frame(1, picture(encoder, 32), tasks=("fragile",))
        wait_until(lambda: status() != serving)
        (result,) = client.wait_for("result", 1, PATIENCE_S)
        assert "fragile" in result.outcome.analysis.tasks
        wait_until(lambda: status() == serving)
    client.close()


def test_a_worker_that_does_not_answer_is_replaced(
    start_server: StartServer, encoder: EdgeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_engine, "HUNG_S", 0.5)
    server = start_server(FRAGILE, workers=1, frame_deadline_s=1.0)
    (pid,) = pids(server)
    os.kill(pid, signal.SIGSTOP)
    client = RawClient(server.address)
    client.hello(device="camera", session="hung")
    client.frame(1, picture(encoder, 32), tasks=("fragile",))
    (result,) = client.wait_for("result", 1, PATIENCE_S)
    assert "fragile" in result.outcome.analysis.tasks
    assert gone(pid)
    client.close()


def test_frames_in_flight_are_finished_by_a_server_that_drains(
    start_server: StartServer, encoder: EdgeEncoder
) -> None:
    server = start_server(FRAGILE, workers=2)
    client = RawClient(server.address)
    client.hello(device="camera", session="drains")
    for sequence in range(1, 5):
        client.frame(sequence, picture(encoder, fragile.SLOW), tasks=("fragile",))
    client.wait_for("ack", 4)
    server.stop()
    assert len(client.wait_for("result", 4, PATIENCE_S)) == 4
    assert client.ended.wait(PATIENCE_S)
    client.close()
    assert server.join()


def test_what_a_worker_cannot_load_ends_the_start(
    start_server: StartServer, tiny_bundle: Bundle
) -> None:
    with pytest.raises(FeatherwireError) as caught:
        start_server(workers=2, device="cuda:99")
    assert caught.value.reason == "bad_device"
    with pytest.raises(FeatherwireError) as caught:
        start_server({"local": lambda: FixedTask("local")}, workers=1)
    assert caught.value.reason == "not_importable"


def test_an_answer_that_nobody_awaits_frees_its_place(
    encoder: EdgeEncoder, tiny_bundle: Bundle
) -> None:
    from cloud_server.engine import EngineFrame, WorkerCounts
    from cloud_server.engine.spec import EngineSpec

    async def run() -> None:
        spec = EngineSpec(
            bundle=tiny_bundle.origin,
            bundles=(),
            more_tasks={"fragile": "tests.support.fragile:open_fragile"},
            counts=WorkerCounts(queue_size=1),
        )
        engine = await ProcessEngine.open(spec, 1)
        try:
            slow = EngineFrame((picture(encoder, fragile.SLOW),), ("fragile",))
            late = EngineFrame((picture(encoder, 32),), ("fragile",), deadline_s=0.3)
            first = asyncio.create_task(engine.submit(slow))
            await asyncio.sleep(0.1)
            # One frame a worker: the second waits here, until its time is over.
            outcome = await engine.submit(late)
            assert outcome.error is not None
            assert outcome.error.reason == "deadline_exceeded"
            assert not first.done()
            first.cancel()
            quick = EngineFrame((picture(encoder, 32),), ("fragile",))
            assert (await engine.submit(quick)).analysis is not None
            assert engine.queues["workers"] == 0
        finally:
            await engine.close()
        assert (await engine.submit(slow)).error is not None

    asyncio.run(run())

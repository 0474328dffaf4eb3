"""Databases that go away and come back: what waits, what runs again, what is said meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from sqlalchemy import Connection, create_engine, text

from cloud_server.database import Database, database
from cloud_server.database.database import database_url
from cloud_server.database.schema import DEVICES
from cloud_server.results.log import ResultLog
from cloud_server.serve import health
from cloud_server.serve.health import LIVE, Health
from cloud_server.telemetry.metrics import Metrics
from shared.errors import StorageError
from tests.support import postgres
from tests.support.logs import KEY, V, accept, outcome, take
from tests.support.memory_server import ScriptedEngine

Reader = Callable[[Connection], int]
ONE: Reader = lambda connection: int(connection.execute(text("SELECT 1")).scalar_one())  # noqa: E731


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgres.Cluster]:
    """One that these tests may stop."""
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    with postgres.cluster() as cluster:
        yield cluster


@pytest.fixture
def away_log(cluster: postgres.Cluster) -> Iterator[ResultLog]:
    opened = Database(cluster.database())
    try:
        yield ResultLog(opened, window=100)
    finally:
        opened.close()


async def write_of(log: ResultLog, name: str) -> None:
    """A change that is not repeatable."""
    row = {"device": name, "described": b"", "last_seen_at": 0}
    await log.database.write(lambda one: one.execute(DEVICES.insert().values(row)))


async def names(log: ResultLog) -> list[str]:
    query = DEVICES.select().order_by(DEVICES.c.device)
    return await log.database.read(lambda one: [row.device for row in one.execute(query)])


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_the_first_call_after_a_restart_finds_the_database(
    cluster: postgres.Cluster, away_log: ResultLog, mode: str
) -> None:
    await away_log.complete(await take(away_log, 1), outcome("cat"))
    assert await away_log.database.read(ONE) == 1
    await asyncio.to_thread(cluster.stop, mode)
    await asyncio.to_thread(cluster.start)
    record = await away_log.complete(await take(away_log, 2), outcome("dog"))
    assert (record.cursor, record.result_id) == (2, 2)
    assert await away_log.database.read(ONE) == 1
    assert not away_log.database.failing


async def test_what_comes_during_a_restart_waits_for_it(
    cluster: postgres.Cluster, away_log: ResultLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_server.database.writer.RECONNECT_S", 60.0)
    monkeypatch.setattr(database, "READ_AGAIN_S", 60.0)
    await asyncio.to_thread(cluster.stop)
    writing = asyncio.create_task(write_of(away_log, "camera"))
    reading = asyncio.create_task(away_log.database.read(ONE))
    accepting = asyncio.create_task(accept(away_log, KEY, 7, V, b"m"))
    await asyncio.sleep(0.3)
    assert not any(task.done() for task in (writing, reading, accepting))
    await asyncio.to_thread(cluster.start)
    await writing
    assert await reading == 1
    assert (await accepting).new
    assert "camera" in await names(away_log)


async def test_while_it_is_known_to_be_away_nobody_waits(
    cluster: postgres.Cluster, away_log: ResultLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_server.database.writer.RECONNECT_S", 0.3)
    await asyncio.to_thread(cluster.stop)
    try:
        with pytest.raises(StorageError) as caught:
            await write_of(away_log, "first")
        assert caught.value.reason == "unavailable"
        assert away_log.database.failing
        monkeypatch.setattr("cloud_server.database.writer.RECONNECT_S", 600.0)
        monkeypatch.setattr(database, "READ_AGAIN_S", 600.0)
        with pytest.raises(StorageError):
            await asyncio.wait_for(write_of(away_log, "second"), 60)
        with pytest.raises(StorageError):
            await asyncio.wait_for(away_log.database.read(ONE), 60)
    finally:
        await asyncio.to_thread(cluster.start)
    await away_log.database.probe()
    assert not away_log.database.failing
    assert away_log.database.away_s == 0.0


async def test_a_connection_that_is_cut_in_the_commit_repeats_only_what_may_be_repeated(
    away_log: ResultLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has committed, and its answer is lost: nobody can know."""
    engine = away_log.database.engine
    commits = 0

    def do_commit(driver: Any) -> None:
        nonlocal commits
        commits += 1
        driver.commit()
        if commits == 2:
            with create_engine(engine.url).connect() as other:
                values = {"pid": driver.info.backend_pid}
                other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), values)
            driver.execute("SELECT 1")

    monkeypatch.setattr(engine.dialect, "do_commit", do_commit)
    begun, end = threading.Event(), threading.Event()

    def hold_up(_connection: Connection) -> None:
        begun.set()
        assert end.wait(30)

    first = asyncio.create_task(away_log.database.write(hold_up))
    await asyncio.to_thread(begun.wait, 30)
    asyncio.get_running_loop().call_later(0.2, end.set)  # when both of these have come
    accepted, doubtful = await asyncio.gather(
        accept(away_log, KEY, 1, V, b"m"),
        write_of(away_log, "doubtful"),
        return_exceptions=True,
    )
    await first
    assert not isinstance(accepted, BaseException)
    assert not accepted.new, "it was kept by the commit whose answer was lost"
    assert isinstance(doubtful, StorageError)
    assert await names(away_log) == ["doubtful"], "not twice"


async def test_a_primary_that_takes_no_writes_any_more_is_left_for_another_connection(
    cluster: postgres.Cluster,
) -> None:
    """As after a failover: what was the primary answers, and is read-only."""
    opened = Database(cluster.database())
    try:
        log = ResultLog(opened, window=100)
        read_only = "default_transaction_read_only"
        writer_pid = opened.writer.run(
            lambda one: one.execute(text("SELECT pg_backend_pid()")).scalar_one()
        )
        opened.writer.run(lambda one: one.execute(text(f"SET {read_only} = on")))
        assert (await accept(log, KEY, 1, V, b"m")).new
        now_pid = opened.writer.run(
            lambda one: one.execute(text("SELECT pg_backend_pid()")).scalar_one()
        )
        assert now_pid != writer_pid
    finally:
        opened.close()


async def test_readers_wait_where_all_connections_are_taken(
    cluster: postgres.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "READ_AGAIN_S", 60.0)
    url = cluster.database()
    opened = Database(url)
    await asyncio.to_thread(cluster.execute, "CREATE ROLE few LOGIN CONNECTION LIMIT 1")
    of_few = database_url(url).set(username="few")
    taken = create_engine(of_few).connect()
    try:
        opened.engine = database.open_engine(of_few)
        reading = asyncio.create_task(opened.read(ONE))
        await asyncio.sleep(0.3)
        assert not reading.done()
        taken.invalidate()
        assert await reading == 1
    finally:
        taken.close()
        opened.close()


def test_a_connection_tells_when_its_peer_has_vanished(cluster: postgres.Cluster) -> None:
    url = cluster.database()
    opened = Database(url + "&connect_timeout=2")
    try:
        with opened.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            parameters = driver.info.get_parameters()
            assert parameters["keepalives_idle"] == "10"
            assert parameters["connect_timeout"] == "2", "the operator's own word goes first"
            shown = connection.execute(text("SHOW statement_timeout")).scalar_one()
            assert shown == "1min"
    finally:
        opened.close()


# -- SQLite ---------------------------------------------------------------------------------------


async def test_a_file_that_was_moved_away_takes_nothing_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    opened = Database(f"sqlite:///{path}")
    try:
        log = ResultLog(opened, window=100)
        assert (await accept(log, KEY, 1, V, b"m")).new
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(StorageError, match="no longer there") as caught:
            await accept(log, KEY, 2, V, b"m")
        assert caught.value.reason == "unavailable"
        assert not path.exists(), "no empty one was made in its place"
        assert opened.failing
        (tmp_path / "elsewhere").rename(path)
        assert (await accept(log, KEY, 2, V, b"m")).new
        assert not opened.failing
        path.rename(tmp_path / "elsewhere")
        path.write_bytes(b"")
        with pytest.raises(StorageError, match="another file"):
            await accept(log, KEY, 3, V, b"m")
    finally:
        opened.close()


# -- what the health service says ------------------------------------------------------------------


async def test_health_tells_a_database_that_is_away_from_a_process_that_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"WATCH": 0.01, "DATABASE_GRACE": 0.2, "PROBE_AGAIN": 0.02, "PROBE_IDLE": 0.05}
    for name, seconds in times.items():
        monkeypatch.setattr(health, f"{name}_S", seconds)
    path = tmp_path / "log.db"
    opened = Database(f"sqlite:///{path}")
    engine, metrics = ScriptedEngine(), Metrics()
    watched = Health(engine, opened, ("some.Service",), metrics)

    async def said(service: str) -> str:
        answer = await watched.servicer.Check(
            health_pb2.HealthCheckRequest(service=service),
            None,  # type: ignore[arg-type]
        )
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    async def until(ready: str, alive: str) -> None:
        async with asyncio.timeout(30):
            while [await said("some.Service"), await said(""), await said(LIVE)] != [
                ready, ready, alive,
            ]:  # fmt: skip
                await asyncio.sleep(0.01)

    try:
        await watched.start()
        await until("SERVING", "SERVING")
        # Nobody writes: the server finds out by itself, and what it is that is away.
        path.rename(tmp_path / "elsewhere")
        await until("NOT_SERVING", "SERVING")
        assert metrics.registry.get_sample_value("featherwire_database_up") == 0.0
        (tmp_path / "elsewhere").rename(path)
        await until("SERVING", "SERVING")
        assert metrics.registry.get_sample_value("featherwire_database_up") == 1.0
        engine.alive = False
        await until("NOT_SERVING", "NOT_SERVING")
        engine.alive = True
        await until("SERVING", "SERVING")
    finally:
        await watched.close()
        opened.close()

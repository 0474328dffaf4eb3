"""Logs on SQLite and on a real PostgreSQL; each test runs on both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_server.database import Database
from cloud_server.results.log import ResultLog
from cloud_server.results.records import Accepted, NewFrame, SessionKey, Version
from shared.proto.featherwire.v1 import types_pb2
from tests.support import postgres

Open = Callable[..., ResultLog]


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[postgres.Cluster]:
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    with postgres.cluster() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    cluster: postgres.Cluster = request.getfixturevalue("postgres_cluster")
    return cluster.database()


@pytest.fixture
async def open_log(url: str) -> AsyncIterator[Open]:
    """Opens the log of ``url``, the one before closed: what a restart is."""
    open_ones: list[ResultLog] = []

    def open_one(*, window: int = 1000) -> ResultLog:
        while open_ones:
            open_ones.pop().database.close()
        log = ResultLog(Database(url, lock_wait_s=1.0), window=window)
        open_ones.append(log)
        return log

    yield open_one
    for log in open_ones:
        log.database.close()


@pytest.fixture
def log(open_log: Open) -> ResultLog:
    return open_log()


async def accept(
    log: ResultLog, key: SessionKey, sequence: int, version: Version, message: bytes, **more: Any
) -> Accepted:
    """What became of one frame that came alone."""
    (accepted,) = await log.accept(key, [NewFrame(sequence, version, message, **more)])
    return accepted


def outcome(*classes: str, task: str = "detection", filler: int = 0) -> types_pb2.FrameOutcome:
    """An outcome in which a task found these classes; ``filler`` bytes larger."""
    result = types_pb2.TaskResult(task=task)
    for name in classes:
        result.detections.add(class_name=name, score=0.5)
    message = types_pb2.FrameOutcome()
    message.analysis.tasks[task].CopyFrom(result)
    if filler:
        message.analysis.tasks[task].models.add(name="x" * filler)
    return message

"""A device that comes back after its server has forgotten its session: with the spool it had."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sqlalchemy import func, select

from cloud_server.consumers import ResultClient
from cloud_server.database.schema import SESSIONS
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from edge_client.spool import Spool
from tests.support.recorder import Recorder
from tests.support.servers import ServerThread


def rows(server: ServerThread) -> int:
    """Of the table of sessions."""
    database = server.server._log.database
    return database.read_now(
        lambda one: int(one.execute(select(func.count()).select_from(SESSIONS)).scalar_one())
    )


def test_it_goes_on_with_its_own_numbers_and_nothing_is_done_twice(
    start_server: Callable[..., ServerThread], encoder: EdgeEncoder, tmp_path: Path
) -> None:
    recorder = Recorder()
    server = start_server({"record": lambda: recorder}, keep_days=1e-6)
    server.server.retention._every_s = 0.05
    results = []
    for visit in range(3):
        widths = [40 + 10 * visit + number for number in range(4)]
        with (
            Spool.open(tmp_path / "spool") as spool,
            EdgeSession(server.address, encoder=encoder, device="camera", spool=spool) as session,
        ):
            pictures = (np.full((48, width, 3), 90, np.uint8) for width in widths)
            results += list(session.stream(pictures, tasks=["record"]))
        until = time.monotonic() + 60
        while rows(server):
            assert time.monotonic() < until
            time.sleep(0.02)
    assert {one.error for one in results} == {None}
    assert [one.sequence for one in results] == list(range(1, 13))
    assert recorder.widths == [40 + 10 * visit + n for visit in range(3) for n in range(4)]
    with ResultClient(server.address) as client:
        assert list(client.records()) == []

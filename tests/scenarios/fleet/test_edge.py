"""A real device with a spool: it does what it was told while it was away, and says what waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.auth.tokens import Role
from cloud_server.fleet.client import FleetClient
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from edge_client.spool import Spool
from shared.errors import SessionError
from shared.proto.featherwire.v1 import fleet_pb2
from tests.support.access import Keys
from tests.support.fleet import named, outcomes, rate, tasks, until
from tests.support.servers import FixedTask, ServerThread

Start = Callable[..., ServerThread]


def test_a_device_that_returns_does_as_it_was_told(
    start_server: Start, encoder: EdgeEncoder, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    server = start_server(
        {"one": lambda: FixedTask("one"), "two": lambda: FixedTask("two")},
    )
    address = server.address
    with (
        Spool.open(tmp_path / "spool") as spool,
        EdgeSession(address, device="cam", encoder=encoder, spool=spool) as session,
    ):
        first = session.send(image)
        assert set(first.tasks) == {"one", "two"}
    with FleetClient(address) as operator:
        until(lambda: not next(operator.devices()).online)
        operator.send(named("cam"), rate(3))
        operator.send(named("cam"), tasks("two"))
        bundle = fleet_pb2.UseBundle(bundle_id=encoder.bundle.id)
        operator.send(named("cam"), fleet_pb2.Command(use_bundle=bundle))
        with (
            Spool.open(tmp_path / "spool") as spool,
            EdgeSession(address, device="cam", encoder=encoder, spool=spool) as session,
        ):
            until(lambda: "pending" not in {one[2] for one in outcomes(operator)})
            assert outcomes(operator) == [
                ("cam", "set_rate", "done"),
                ("cam", "set_tasks", "done"),
                ("cam", "use_bundle", "done"),  # it is in use
            ]
            after = session.send(image)
            assert (after.state, set(after.tasks)) == (3, {"two"})
        with (
            Spool.open(tmp_path / "spool") as spool,
            EdgeSession(address, device="cam", encoder=encoder, spool=spool) as session,
        ):
            again = session.send(image)  # a restart changes nothing of it
            assert (again.state, set(again.tasks)) == (3, {"two"})
            operator.send(named("cam"), fleet_pb2.Command(set_rate=fleet_pb2.SetRate()))
            until(lambda: "pending" not in {one[2] for one in outcomes(operator)})
            assert session.send(image).state == first.state  # its own again


def test_operators_see_what_waits_on_a_device(
    start_server: Start, encoder: EdgeEncoder, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    server = start_server({"slow": lambda: FixedTask("slow", delay_s=0.5)}, credits=1)
    with (
        FleetClient(server.address) as operator,
        Spool.open(tmp_path / "spool") as spool,
        EdgeSession(
            server.address, device="cam", encoder=encoder, spool=spool, predict=False
        ) as session,
    ):
        results = session.stream([image] * 30, state=4)
        next(results)
        cam = until(lambda: [one for one in operator.devices() if one.queued_frames])[0]
        assert cam.queued_bytes > 0
        assert len(list(results)) == 29
        until(lambda: not next(operator.devices()).queued_frames)


def test_a_device_whose_token_is_revoked_keeps_its_frames(
    start_server: Start,
    keys: Keys,
    encoder: EdgeEncoder,
    image: NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    token = keys.token(Role.DEVICE, device="cam")
    server = start_server(**keys.server)
    with Spool.open(tmp_path / "spool") as spool:
        with EdgeSession(
            server.address, device="cam", encoder=encoder, spool=spool, access=keys.access(token)
        ) as session:
            assert session.send(image, state=4).analysis is not None
            keys.revoke(token)
            with pytest.raises(SessionError) as caught:
                send_until_refused(session, image)
            assert caught.value.reason in {"token_revoked", "spooled"}
        kept = spool.stats()
        assert kept.frames + kept.awaited >= 1
        with EdgeSession(
            server.address, device="cam", encoder=encoder, spool=spool, access=keys.access(token)
        ) as session:
            assert session.refusal is not None
            assert session.refusal.reason == "token_revoked"
            with pytest.raises(SessionError) as caught:
                session.send(image, state=4)
            assert caught.value.reason == "spooled"
        kept = spool.stats()
        fresh = keys.token(Role.DEVICE, device="cam")
        with EdgeSession(
            server.address, device="cam", encoder=encoder, spool=spool, access=keys.access(fresh)
        ) as session:
            results = list(session.flush())
            assert len(results) == kept.frames + kept.awaited
            assert all(one.error is None for one in results)
        assert (spool.stats().frames, spool.stats().awaited) == (0, 0)


def send_until_refused(session: EdgeSession, image: NDArray[np.uint8]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        session.send(image, state=4)

"""A spool's frames are one device's: whoever delivers them, and however the machine is called."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.consumers import ResultClient
from edge_client.encoder import EdgeEncoder
from edge_client.session import CapturedPhoto, EdgeSession, Origin
from edge_client.spool import Spool
from shared.errors import SpoolError
from tests.support.servers import FixedTask, ServerThread

Start = Callable[..., ServerThread]
TAKEN_AT = 1.7e9 + 0.25


def leave_unanswered(
    address: str, encoder: EdgeEncoder, folder: Path, image: NDArray[np.uint8], device: str
) -> list[int]:
    """A process that is killed: the server has its frames, and it takes one result of four."""
    with Spool.open(folder) as spool:
        session = EdgeSession(address, device=device, encoder=encoder, spool=spool).open()
        photos = (CapturedPhoto(image, Origin(f"p{n}", TAKEN_AT + n)) for n in range(4))
        results = session.stream(photos, tasks=["slow"])
        first = next(results)
        results.close()
        while spool.stats().frames:
            time.sleep(0.01)
        session._exchange._sender.close(timeout_s=0)  # type: ignore[union-attr]
    return [first.sequence]


def test_flush_sends_as_the_device_that_kept_them_and_every_frame_has_one_result(
    start_server: Start, encoder: EdgeEncoder, tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    address = start_server({"slow": lambda: FixedTask("slow", 0.2)}).address
    seen = leave_unanswered(address, encoder, tmp_path, image, "cam-7")
    with (
        Spool.open(tmp_path) as spool,
        EdgeSession(address, encoder=encoder, spool=spool) as session,
    ):
        assert session.device == "cam-7"
        later = list(session.flush())
    assert {one.error for one in later} == {None}
    assert sorted(seen + [one.sequence for one in later]) == [1, 2, 3, 4]
    # When they were taken is known still, as in the server's log.
    assert {one.source.name: one.source.captured_at for one in later} == {
        f"p{one.sequence - 1}": TAKEN_AT + one.sequence - 1 for one in later
    }
    with ResultClient(address) as client:
        records = list(client.records())
    assert sorted((one.device, one.sequence) for one in records) == [
        ("cam-7", number) for number in (1, 2, 3, 4)
    ]


def test_another_device_is_refused_and_may_take_over_what_no_server_has(
    start_server: Start, encoder: EdgeEncoder, tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    address = start_server({"slow": lambda: FixedTask("slow", 0.1)}).address
    leave_unanswered(address, encoder, tmp_path, image, "cam-7")
    with Spool.open(tmp_path) as spool:
        with pytest.raises(SpoolError, match="cam-7") as refused:
            EdgeSession(address, device="cam-8", encoder=encoder, spool=spool)
        assert refused.value.reason == "other_device"
        with pytest.raises(SpoolError, match="flush") as early:
            spool.rename("cam-8")
        assert early.value.reason == "frames_under_way"
        with EdgeSession(address, encoder=encoder, spool=spool) as session:
            list(session.flush())
        spool.rename("cam-8")
        with EdgeSession(address, device="cam-8", encoder=encoder, spool=spool) as session:
            assert session.send(image, tasks=["slow"]).sequence == 1
    with ResultClient(address) as client:
        assert [one.device for one in client.records()] == ["cam-7"] * 4 + ["cam-8"]


def test_results_that_the_server_has_no_more_are_not_waited_for(
    start_server: Start, encoder: EdgeEncoder, tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    first = start_server({"slow": lambda: FixedTask("slow", 0.1)})
    leave_unanswered(first.address, encoder, tmp_path, image, "cam-7")
    first.stop()
    empty = start_server({"slow": lambda: FixedTask("slow", 0.1)})
    began = time.monotonic()
    with (
        Spool.open(tmp_path) as spool,
        EdgeSession(empty.address, encoder=encoder, spool=spool) as session,
    ):
        later = list(session.flush())
        assert spool.awaited() == {}
    assert [one.error.reason for one in later if one.error] == ["result_not_kept"] * 3
    assert time.monotonic() - began < 50, "not after the deadline of a minute"

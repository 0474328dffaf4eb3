"""A fault in the reading of a stream, of any kind, ends that stream and keeps nobody waiting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.encoder import EdgeEncoder
from edge_client.rate import RateControl
from edge_client.session import EdgeSession
from edge_client.spool import Spool
from shared.errors import SessionError
from tests.support.servers import FixedTask, ServerThread

Start = Callable[..., ServerThread]


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """So many acknowledgements (the one number in it) are not understood."""
    left = [1]
    whole = RateControl.acknowledged

    def faulty(*arguments: Any) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise ZeroDivisionError("a fault that this test made up")
        whole(*arguments)

    monkeypatch.setattr(RateControl, "acknowledged", faulty)
    return left


@pytest.fixture
def address(start_server: Start) -> str:
    return start_server({"calm": lambda: FixedTask("calm")}).address


def test_who_waits_is_told_at_once(
    address: str, encoder: EdgeEncoder, image: NDArray[np.uint8], faults: list[int]
) -> None:
    with (
        EdgeSession(address, encoder=encoder, connect_timeout_s=20) as session,
        pytest.raises(SessionError, match="made up") as ended,
    ):
        session.send(image)
    assert ended.value.reason == "internal_error"


def test_what_is_spooled_goes_out_on_the_next_stream(
    address: str, encoder: EdgeEncoder, image: NDArray[np.uint8], faults: list[int], tmp_path: Path
) -> None:
    with (
        Spool.open(tmp_path) as spool,
        EdgeSession(address, encoder=encoder, spool=spool, connect_timeout_s=20) as session,
    ):
        assert session.send(image).error is None
        assert spool.stats().frames == 0
    assert faults == [0]

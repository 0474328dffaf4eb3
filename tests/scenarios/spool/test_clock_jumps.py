"""The wall clock jumps by years while frames wait: none is dropped, none is sent out of order."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from edge_client.spool import Spool, SpoolLimits
from shared.bundle import Bundle
from tests.support.frames import frame
from tests.support.servers import ServerThread

YEAR_S = 365 * 86400.0


@pytest.mark.parametrize("jump_s", [10 * YEAR_S, -10 * YEAR_S])
def test_a_jump_of_the_wall_clock_drops_and_reorders_nothing(
    start_server: Callable[..., ServerThread],
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    jump_s: float,
) -> None:
    """As on a device whose clock has no battery: it starts in 1970, and then learns the time."""
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    encoder = EdgeEncoder(tiny_bundle)
    real = time.time
    with Spool.open(tmp_path, SpoolLimits(max_age_s=3600)) as spool:
        for jumped in (False, True, False):
            monkeypatch.setattr(time, "time", lambda j=jumped: real() + j * jump_s)
            for _ in range(4):
                spool.put(frame(encoder.encode(picture)))
            spool.expire()
        assert list(spool.queued()) == list(range(1, 13))
    with (
        Spool.open(tmp_path) as spool,
        EdgeSession(start_server().address, bundle=tiny_bundle, spool=spool) as session,
    ):
        results = list(session.flush())
        assert [result.sequence for result in results] == list(range(1, 13))
        assert {result.error for result in results} == {None}
        assert "dropped_age" not in spool.stats().counts

"""A rate of a stream with a real codec and a real session: what is cut and refined is decoded."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codec.base import small_bundle
from edge_client import EdgeSession
from edge_client.rate import RateControl
from edge_client.session import CapturedPhoto, Origin
from edge_client.spool import Spool
from shared.bundle import Bundle
from tests.support.predicted import Decoder, decoding_server
from tests.support.predicting import moving

SPEED = 4.0
"""Seconds of the stream in one of the clock's."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle("lattice-palette", tmp_path_factory.mktemp("nested"), "nested")


def resting(count: int) -> Iterator[CapturedPhoto]:
    """Ten pictures a second, of which only the first few move."""
    for number, photo in enumerate(moving(count, still=range(6, count))):
        yield CapturedPhoto(photo, Origin(str(number), 1e9 + 0.1 * number))
        time.sleep(0.1 / SPEED)


@pytest.mark.parametrize("spooled", [False, True])
def test_a_still_scene_is_refined_and_every_frame_decoded(
    bundle: Bundle, tmp_path: Path, spooled: bool
) -> None:
    count, decoder = 120, Decoder(bundle)
    control = RateControl(8 * 2_200, clock=lambda: SPEED * time.monotonic(), stream=True)
    spool = Spool.open(tmp_path / "spool") if spooled else None
    with (
        decoding_server(decoder) as server,
        EdgeSession(server.address, bundle=bundle, control=control, spool=spool) as session,
    ):
        results = list(session.stream(resting(count)))
    if spool is not None:
        spool.close()
    reasons = [result.error and result.error.reason for result in results]
    assert reasons == ["decoded"] * count
    states = [decoder.values[n, bundle.short_id].state for n in range(1, count + 1)]
    assert states[0] > 0
    assert states[-1] == 0
    assert all(a >= b for a, b in itertools.pairwise(states)), "layer by layer"
    assert decoder.keys == [1], "a layer more needs no key frame"

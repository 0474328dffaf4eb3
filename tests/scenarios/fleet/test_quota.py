"""A device over its quota waits for credits: it loses nothing, and others notice nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.auth.tokens import Role
from cloud_server.fleet.client import FleetClient
from cloud_server.fleet.quota import Meter, Quota
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from shared.bitstream import Bitstream
from shared.errors import SessionError
from tests.support.access import Keys
from tests.support.raw_client import RawClient
from tests.support.servers import ServerThread

Start = Callable[..., ServerThread]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> Bitstream:
    return encoder.encode(image, state=4)


# -- the arithmetic ------------------------------------------------------------------------------


def test_a_burst_is_free_and_what_is_beyond_must_be_waited_for() -> None:
    clock = Clock()
    meter = Meter(Quota(frames=10, bytes=1000, burst_s=2), clock)
    meter.count(frames=20, bytes=2000)
    assert meter.delay_s() == 0
    meter.count(frames=5)
    assert meter.delay_s() == pytest.approx(0.5)
    meter.count(bytes=3000)
    assert meter.delay_s() == pytest.approx(3.0)  # the longest of all
    with pytest.raises(SessionError) as caught:
        meter.check()
    assert caught.value.reason == "quota_exceeded"
    assert caught.value.details["retry_after_s"] == pytest.approx(3.0)
    clock.now += 3.0
    meter.check()
    clock.now += 1e6
    meter.count(frames=20)  # idling saves no more than a burst
    assert meter.delay_s() == 0
    meter.count(frames=1)
    assert meter.delay_s() > 0


def test_what_has_no_quota_is_counted_and_never_waits() -> None:
    clock = Clock()
    meter = Meter(Quota(), clock)
    for _ in range(200):
        meter.count(frames=1, bytes=500, pixels=10**9)
        clock.now += 0.1
    assert meter.delay_s() == 0
    assert meter.frames.value == pytest.approx(10, rel=0.05)
    assert meter.bytes.value == pytest.approx(5000, rel=0.05)
    clock.now += 100
    assert meter.frames.value < 1e-6


# -- on a real server ----------------------------------------------------------------------------


def send_all(client: RawClient, bitstream: Bitstream, count: int) -> None:
    """Frames as credits allow; each has its result in the end."""
    credits = client.all("welcome")[0].credits

    def paid_for(sequence: int) -> bool:
        return sequence <= credits + sum(one.credits for one in client.all("credit"))

    for sequence in range(1, count + 1):
        client.wait_until(partial(paid_for, sequence), 30)
        client.frame(sequence, bitstream)
    client.wait_for("result", count, 30)


@pytest.mark.parametrize("kind", ["frames", "bytes", "pixels"])
def test_a_greedy_device_is_slowed_down_and_loses_no_frame(
    start_server: Start, bitstream: Bitstream, kind: str
) -> None:
    cost = {"frames": 1, "bytes": bitstream.file_bytes, "pixels": 96 * 160}[kind]
    per_second, count = 20, 40
    server = start_server(**{f"quota_{kind}": per_second * cost, "quota_burst_s": 0.1}, credits=8)
    greedy, modest = RawClient(server.address), RawClient(server.address)
    greedy.hello(device="greedy")
    modest.hello(device="modest")
    started = time.monotonic()
    send_all(greedy, bitstream, count)
    elapsed_s = time.monotonic() - started
    results = greedy.all("result")
    assert sorted(one.sequence for one in results) == list(range(1, count + 1))
    assert all(one.outcome.HasField("analysis") for one in results)
    # A burst, and what was under way when it ended, are free; all else came at the quota's pace.
    assert elapsed_s > (count - 8 - 8 - 2) / per_second
    entry = server.server._ingest._fleet.registry.get("greedy")
    assert entry is not None
    assert entry.meter.withheld > 0
    send_all(modest, bitstream, 1)  # within the burst, whatever the message adds to the features
    other = server.server._ingest._fleet.registry.get("modest")
    assert other is not None
    assert other.meter.delay_s() == 0
    greedy.close()
    modest.close()


def test_a_new_session_brings_no_new_quota(start_server: Start, bitstream: Bitstream) -> None:
    server = start_server(quota_frames=0.5, quota_burst_s=2.0, credits=8)
    first = RawClient(server.address)
    assert first.hello(device="cam").credits == 8
    for sequence in range(1, 9):
        first.frame(sequence, bitstream)
    first.wait_for("result", 8)
    with FleetClient(server.address) as operator:
        (cam,) = operator.devices()
    assert cam.throttled
    first.close()
    second = RawClient(server.address)
    assert second.hello(device="cam", session="another").credits == 0
    assert second.all("credit") == []
    second.close()


def test_calls_outside_a_stream_are_refused_with_a_type(
    start_server: Start, keys: Keys, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    token = keys.token(Role.DEVICE, device="cam")
    server = start_server(**keys.server, quota_frames=0.1, quota_burst_s=20.0)
    with EdgeSession(
        server.address, device="cam", encoder=encoder, access=keys.access(token)
    ) as session:
        refused = None
        for _ in range(5):
            try:
                assert session.analyze(image, state=4).analysis is not None
            except SessionError as error:
                refused = error
                break
    assert refused is not None
    assert refused.reason == "quota_exceeded"
    assert 0 < refused.details["retry_after_s"] <= 10

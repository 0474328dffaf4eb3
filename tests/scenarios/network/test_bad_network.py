"""A network that delays, throttles, stalls and cuts: everything arrives once, and in order."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.rate import RateControl
from edge_client.session import EdgeSession
from edge_client.spool import Spool
from shared.bundle import Bundle
from tests.support.proxy import Proxy
from tests.support.recorder import Recorder
from tests.support.servers import ServerThread

Start = Callable[..., ServerThread]


def numbered(count: int, pause_s: float = 0.0) -> Iterator[NDArray[np.uint8]]:
    """Pictures whose width is 33, 34, ... pixels."""
    for number in range(1, count + 1):
        rng = np.random.default_rng(number)
        yield rng.integers(0, 255, (48, 32 + number, 3)).astype(np.uint8)
        time.sleep(pause_s)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def proxy(start_server: Start, recorder: Recorder) -> Iterator[Proxy]:
    with Proxy(start_server({"record": lambda: recorder}).address) as proxy:
        yield proxy


def test_everything_arrives_once_and_in_order(
    proxy: Proxy, recorder: Recorder, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    rng = random.Random(5)
    over = threading.Event()

    def harm() -> None:
        while not over.wait(rng.uniform(0.1, 0.5)):
            match rng.choice(["cut", "stall", "delay", "throttle", "refuse"]):
                case "cut":
                    proxy.cut()
                case "stall":
                    proxy.stalled = True
                    over.wait(rng.uniform(0.1, 0.4))
                    proxy.cut()
                    proxy.stalled = False
                case "delay":
                    proxy.delay_s = rng.uniform(0.0, 0.03)
                case "throttle":
                    proxy.upstream = rng.choice([None, 20_000.0, 100_000.0])
                case "refuse":
                    proxy.refusing = True
                    proxy.cut()
                    over.wait(rng.uniform(0.1, 0.3))
                    proxy.refusing = False
        proxy.stalled = proxy.refusing = False
        proxy.delay_s, proxy.upstream = 0.0, None

    count = 250
    thread = threading.Thread(target=harm)
    with (
        Spool.open(tmp_path / "spool") as spool,
        EdgeSession(
            proxy.address, bundle=tiny_bundle, spool=spool, connect_timeout_s=30
        ) as session,
    ):
        thread.start()
        try:
            results = []
            for result in session.stream(numbered(count, 0.02), tasks=["record"]):
                results.append(result)
                if len(results) == count - 20:
                    over.set()  # the last ones in peace, so that the test ends
        finally:
            over.set()
            thread.join()
        assert spool.stats().frames == spool.stats().awaited == 0
    assert proxy.connections > 5, "nothing was cut: the test shows nothing"
    assert {result.error for result in results} == {None}
    assert sorted(result.sequence for result in results) == list(range(1, count + 1))
    assert recorder.widths == list(range(33, 33 + count))


def test_throughput_recovers_after_an_outage(
    proxy: Proxy, recorder: Recorder, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    arrived: list[float] = []
    pause_s = 0.02
    with (
        Spool.open(tmp_path / "spool") as spool,
        EdgeSession(
            proxy.address, bundle=tiny_bundle, spool=spool, connect_timeout_s=30
        ) as session,
    ):
        stop = threading.Event()

        def outage() -> None:
            stop.wait(1.5)
            proxy.refusing = True
            proxy.cut()
            stop.wait(1.5)
            proxy.refusing = False

        thread = threading.Thread(target=outage)
        thread.start()
        started = time.monotonic()
        for result in session.stream(numbered(300, pause_s), tasks=["record"]):
            assert result.error is None
            arrived.append(time.monotonic() - started)
        stop.set()
        thread.join()
    before = sum(1 for at in arrived if at < 1.5)
    gap_s, gap_end = max((later - earlier, later) for earlier, later in itertools.pairwise(arrived))
    assert gap_s > 1.0, "there was no outage: the test shows nothing"
    # As long again after the outage as before it: at least as many, for there is a backlog.
    after = sum(1 for at in arrived if gap_end <= at < gap_end + 1.5)
    assert after >= 0.8 * before
    assert recorder.widths == list(range(33, 333))


@pytest.mark.parametrize("spooled", [True, False])
def test_bandwidth_stays_under_its_budget(
    proxy: Proxy, tiny_bundle: Bundle, tmp_path: Path, spooled: bool
) -> None:
    bytes_per_second = 1_500.0
    spool = Spool.open(tmp_path / "spool") if spooled else None
    control = RateControl(8 * bytes_per_second)
    session = EdgeSession(
        proxy.address, bundle=tiny_bundle, spool=spool, control=control, connect_timeout_s=30
    )
    with session:
        opened = proxy.sent_bytes()
        results = [
            result.error for result in session.stream(numbered(40), tasks=["record"], state=0)
        ]
    if spool is not None:
        spool.close()
    assert results == [None] * 40
    sent = [(at, size) for at, size in proxy.sent]
    assert sum(size for _, size in sent) - opened > 3 * bytes_per_second, "too little to show it"
    # Over every span: the budget, a second's worth at once, and what opens and closes a stream.
    for first in range(len(sent)):
        total = 0
        for at, size in sent[first:]:
            total += size
            assert total <= bytes_per_second * (at - sent[first][0] + 1.0) + opened + 512


def test_a_slower_network_than_the_budget_is_followed(
    proxy: Proxy, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (512, 640, 3)).astype(np.uint8)
    proxy.upstream = 4_000.0
    control = RateControl(8 * 200_000.0, frames_per_second=2.0)
    with (
        Spool.open(tmp_path / "spool") as spool,
        EdgeSession(
            proxy.address, bundle=tiny_bundle, spool=spool, control=control, connect_timeout_s=60
        ) as session,
    ):
        results = list(session.stream([picture] * 25, tasks=["record"]))
    assert {result.error for result in results} == {None}
    states = [result.state for result in sorted(results, key=lambda one: one.sequence)]
    sizes = {result.state: result.payload_bytes for result in results}
    assert states[0] == 0, "the budget alone allows the finest state"
    assert states[-1] > 0
    assert sizes[states[-1]] < sizes[0]

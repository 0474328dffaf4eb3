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

HARMS = 40


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
        """A few dozen times, and then no more: on a slow machine that is over early too."""
        for _ in range(HARMS):
            if over.wait(rng.uniform(0.1, 0.5)):
                break
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
    proxy: Proxy, start_server: Start, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Measured beside a session that had none, at the same time and on the same machine."""
    untroubled = Arrivals(start_server({"record": Recorder}).address, tiny_bundle, tmp_path / "a")
    troubled = Arrivals(proxy.address, tiny_bundle, tmp_path / "b")
    with untroubled, troubled:
        troubled.wait_for(SPAN)
        proxy.refusing = True
        proxy.cut()
        before = len(untroubled.at_s)
        untroubled.wait_for(before + SPAN)  # as long as that takes here
        during = len(troubled.at_s)
        proxy.refusing = False
        troubled.wait_for(during + 2 * SPAN)
    # What was in flight when the line was cut comes within a moment of that.
    gap_s, end_s = max(
        (later - earlier, later) for earlier, later in itertools.pairwise(troubled.at_s)
    )
    assert gap_s > 0.5 * (untroubled.at_s[before + SPAN - 1] - untroubled.at_s[before])
    # It has a backlog, so it is no slower than the other: for one that is half as fast this fails.
    after = [at for at in troubled.at_s if at >= end_s][:SPAN]
    meanwhile = sum(after[0] <= at <= after[-1] for at in untroubled.at_s)
    assert len(after) >= 0.8 * meanwhile, (len(after), meanwhile)
    assert sorted(troubled.sequences) == list(range(1, len(troubled.sequences) + 1))


SPAN = 60
"""Frames over which rates are compared."""


class Arrivals(threading.Thread):
    """A session that sends the same picture over and over; ``at_s`` are the times of results."""

    def __init__(self, address: str, bundle: Bundle, folder: Path) -> None:
        super().__init__(daemon=True)
        self.at_s: list[float] = []
        self.sequences: list[int] = []
        self._address, self._bundle, self._folder = address, bundle, folder
        self._failure: BaseException | None = None
        self._stop_sending = threading.Event()

    def __enter__(self) -> Arrivals:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop_sending.set()
        self.join(60)

    def wait_for(self, count: int) -> None:
        until = time.monotonic() + 120
        while len(self.at_s) < count:
            assert self._failure is None, self._failure
            assert time.monotonic() < until, f"{len(self.at_s)} of {count}"
            time.sleep(0.01)

    def _goes_on(self, _picture: object) -> bool:
        return not self._stop_sending.wait(0.02)

    def run(self) -> None:
        photos = itertools.takewhile(self._goes_on, itertools.repeat(next(numbered(1))))
        try:
            with (
                Spool.open(self._folder) as spool,
                EdgeSession(
                    self._address,
                    device=self._folder.name,
                    bundle=self._bundle,
                    spool=spool,
                    connect_timeout_s=30,
                ) as session,
            ):
                for result in session.stream(photos, tasks=["record"]):
                    assert result.error is None, result.error
                    self.sequences.append(result.sequence)
                    self.at_s.append(time.monotonic())
        except BaseException as error:  # noqa: BLE001  # told in the test's own thread
            self._failure = error


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
            proxy.address,
            bundle=tiny_bundle,
            spool=spool,
            control=control,
            connect_timeout_s=60,
            predict=False,  # predicted, the same picture again takes next to nothing
        ) as session,
    ):
        results = list(session.stream([picture] * 25, tasks=["record"]))
    assert {result.error for result in results} == {None}
    states = [result.state for result in sorted(results, key=lambda one: one.sequence)]
    sizes = {result.state: result.payload_bytes for result in results}
    assert states[0] == 0, "the budget alone allows the finest state"
    assert states[-1] > 0
    assert sizes[states[-1]] < sizes[0]

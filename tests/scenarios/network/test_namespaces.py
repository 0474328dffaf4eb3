"""Server and edge as processes in network namespaces of their own: real TCP on a bad line.

No traffic leaves the machine. Skipped where there are no namespaces, as without root.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_client.rate.bucket import BUCKET_S, EXCESS, WINDOW_S
from shared.bundle import Bundle
from shared.wire.transport import KEEPALIVE_TIMEOUT_S
from tests.support.namespaces import CLOUD_ADDRESS, Network, two_namespaces
from tests.support.servers import server_process
from tests.support.streaming_edge import Stream, streaming

SERVER = "from tests.support.recording_server import main; main()"
PATIENCE_S = 40
NETEM = ("netem", "delay", "40ms", "10ms", "loss", "2%")

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Line:
    """A server, and what it takes to start edges that send to it."""

    network: Network
    edge: Callable[..., Stream]
    widths: Callable[[], list[int]]
    streams: Callable[[], int]
    """How many streams the server has seen."""


@pytest.fixture
def network() -> Iterator[Network]:
    with two_namespaces() as network:
        yield network


@contextmanager
def opened(network: Network, bundle: Bundle, folder: Path) -> Iterator[Line]:
    log, widths = folder / "server-log", folder / "widths"
    with ExitStack() as stack:
        _, ready = stack.enter_context(
            server_process(
                "--listen", f"{CLOUD_ADDRESS}:0", "--insecure-anywhere",
                "--bundle", bundle.origin, "--bundles", "none", "--tasks", "none",
                log=log, code=SERVER, environment={"WIDTHS": str(widths)},
                prefix=network.inside(network.cloud),
            )
        )  # fmt: skip

        def edge(pictures: str, *options: object) -> Stream:
            return stack.enter_context(
                streaming(
                    pictures, "--server", ready["listening"], "--bundle", bundle.origin,
                    "--tasks", "record", "--spool", folder / "spool", "--timeout", PATIENCE_S,
                    *options,
                    prefix=network.inside(network.edge),
                )
            )  # fmt: skip

        yield Line(
            network,
            edge,
            lambda: [int(line) for line in widths.read_text().splitlines()],
            lambda: log.read_text().count('"event": "hello"'),
        )


@pytest.fixture
def line(network: Network, tiny_bundle: Bundle, tmp_path: Path) -> Iterator[Line]:
    with opened(network, tiny_bundle, tmp_path) as line:
        yield line


def numbered(folder: Path, count: int) -> str:
    """Pictures whose width is 33, 34, ... pixels, as a pattern."""
    folder.mkdir()
    for number in range(1, count + 1):
        rng = np.random.default_rng(number)
        picture = rng.integers(0, 255, (48, 32 + number, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number:04}.png", compress_level=0)
    return str(folder / "*.png")


def large(folder: Path) -> str:
    """One picture, some three kilobytes when it is encoded."""
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (512, 640, 3)).astype(np.uint8)
    Image.fromarray(picture).save(folder / "one.png", compress_level=0)
    return str(folder / "one.png")


def check_all_once_and_in_order(line: Line, stream: Stream, count: int) -> None:
    status, end = stream.end(None)
    assert status == 0
    assert (end["failed"], end["dropped"], end["queue"]["frames"]) == (0, {}, 0)
    assert sorted(one["sequence"] for one in stream.results) == list(range(1, count + 1))
    assert line.widths() == list(range(33, 33 + count))


def test_everything_arrives_once_and_in_order(line: Line, tmp_path: Path) -> None:
    rng = random.Random(6)
    network, count = line.network, 300
    stream = line.edge(numbered(tmp_path / "pictures", count), "--fps", 25)
    stream.until(lambda: stream.results)
    severed = 0
    for harm in 3 * ["edge out", "cloud out", "slow", "severed", "severed while out"]:
        time.sleep(rng.uniform(0.1, 0.4))
        match harm:
            case "slow":
                for end in (network.edge, network.cloud):
                    network.limit(end, rng.choice([48_000, 200_000, 2_000_000]))
            case "severed":
                severed += network.sever(rng.choice([network.edge, network.cloud]))
            case _:
                end = network.cloud if harm == "cloud out" else network.edge
                network.link(end, up=False)
                if harm == "severed while out":
                    severed += network.sever(network.edge)  # the server is not told
                time.sleep(rng.uniform(0.1, 0.5))
                network.link(end, up=True)
    assert len(stream.results) < count, "all had come before the harm was done"
    for end in (network.edge, network.cloud):
        network.shape(end)
    check_all_once_and_in_order(line, stream, count)
    assert not severed or line.streams() > 1


def test_throughput_recovers_after_an_outage(line: Line, tmp_path: Path) -> None:
    window_s, outage_s, count = 2.5, 2.0, 320
    stream = line.edge(numbered(tmp_path / "pictures", count), "--fps", 25)
    stream.until(lambda: len(stream.results) > 10)

    def in_a_window() -> int:
        first = len(stream.results)
        time.sleep(window_s)
        return len(stream.results) - first

    before = in_a_window()
    line.network.link(line.network.edge, up=False)
    time.sleep(0.3)  # what the server had is not counted
    until_then = len(stream.results)
    time.sleep(outage_s)
    assert len(stream.results) <= until_then, "there was no outage: the test shows nothing"
    line.network.link(line.network.edge, up=True)
    ended = time.monotonic()
    stream.until(lambda: len(stream.results) > until_then)
    # TCP waits twice as long before each try, so at most as long again as the outage was.
    assert time.monotonic() - ended < 3 * outage_s
    after = in_a_window()
    assert after >= 0.8 * before, "there is a backlog, and yet it is slower than before"
    check_all_once_and_in_order(line, stream, count)


def test_bandwidth_stays_under_its_budget_on_the_interface(line: Line, tmp_path: Path) -> None:
    """Of the bytes that the interface counts, 66 a packet are TCP's and below; the budget holds
    for the rest, HTTP/2 and all. Beyond it only what the bucket holds at once, which an edge that
    was kept from its processor for a while may have saved up, and a ping or two."""
    bytes_per_second, pings = 6_000, 256
    stream = line.edge(
        large(tmp_path / "pictures"), "--loop", "--fps", 4,
        "--bytes", 4_000, "--bandwidth", 8 * bytes_per_second, "--no-predict",
    )  # fmt: skip
    stream.until(lambda: stream.results)
    samples = []
    for _ in range(60):
        asked = time.monotonic()
        counted = line.network.counters(line.network.edge)
        samples.append((asked, time.monotonic(), counted))
        time.sleep(0.2)
    _, end = stream.end()
    assert end["failed"] == 0
    # What is handed over late arrives together.
    ten_seconds = (EXCESS * WINDOW_S + 0.5) * bytes_per_second + pings
    for number, (since, _, first) in enumerate(samples):
        for _, until, last in samples[number + 1 :]:
            sent, took_s = last.payload - first.payload, until - since
            assert sent <= bytes_per_second * (took_s + BUCKET_S) + pings
            if took_s <= WINDOW_S:
                assert sent <= ten_seconds
    (since, _, first), (_, until, last) = samples[0], samples[-1]
    assert until - since > WINDOW_S
    sent = last.payload - first.payload
    headers = last.bytes - first.bytes - sent
    assert sent > 0.5 * bytes_per_second * (until - since), "too little to show it"
    assert headers < 0.25 * sent, "what is allowed for TCP is not a detail"


def test_a_slow_line_is_filled_and_nothing_times_out(line: Line, tmp_path: Path) -> None:
    """Without --bandwidth, and with more pictures than the line takes."""
    bytes_per_second, window_s = 8_000, 12.0
    line.network.limit(line.network.edge, 8 * bytes_per_second)
    stream = line.edge(
        large(tmp_path / "pictures"), "--loop", "--fps", 10, "--window", 1000, "--grace", 1,
        "--no-predict",
    )  # fmt: skip
    stream.until(lambda: len(stream.results) >= 5)
    first, began = len(stream.results), time.monotonic()
    time.sleep(window_s)
    results, took_s = stream.results[first:], time.monotonic() - began
    goodput = sum(one["bytes"] for one in results) / took_s
    waiting = stream.statuses[-1]["queue"]["frames"]
    _, end = stream.end()
    assert waiting > 10, "the line took all that there was: the test shows nothing"
    assert 0.5 * bytes_per_second < goodput < 1.1 * bytes_per_second
    assert end["failed"] == 0
    assert line.streams() == 1
    # The transport's pings are answered behind what is under way.
    assert max(one["round_trip_ms"] or 0 for one in results) < 1000 * KEEPALIVE_TIMEOUT_S


def test_a_long_and_lossy_line_loses_and_doubles_nothing(
    network: Network, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    network.need(*NETEM)
    for end in (network.edge, network.cloud):
        network.shape(end, *NETEM)
    with opened(network, tiny_bundle, tmp_path) as line:
        stream = line.edge(numbered(tmp_path / "pictures", 200), "--fps", 25)
        check_all_once_and_in_order(line, stream, 200)

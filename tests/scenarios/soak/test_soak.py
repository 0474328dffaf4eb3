"""A video in a loop, by RTSP, from one end to the other for as long as you like: memory stays flat.

For some seconds here, with a drawn video. FEATHERWIRE_SOAK_SECONDS, FEATHERWIRE_SOAK_VIDEO (a file)
and FEATHERWIRE_SOAK_BUNDLE (a folder, or a packaged one's name) say otherwise, and
FEATHERWIRE_SOAK_OPTIONS has more of the edge's options.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from cloud_server.consumers import ResultClient
from shared.bundle import Bundle
from tests.support.predicted import predicting_bundle, scene
from tests.support.rtsp import RtspServer, why_not
from tests.support.servers import server_process
from tests.support.streaming_edge import streaming

SECONDS = float(os.environ.get("FEATHERWIRE_SOAK_SECONDS", "15"))
MORE = tuple(os.environ.get("FEATHERWIRE_SOAK_OPTIONS", "").split())
SAMPLE_S = max(0.5, SECONDS / 600)
WARM = 0.25
"""Share of the time in which caches fill."""
GROWTH = 32.0
"""MiB by which a process may grow from its warm state on."""


@dataclass
class Memory:
    """What a process holds for itself (RSS of all its processes), sample by sample."""

    name: str
    process: psutil.Process
    at_s: list[float] = field(default_factory=list)
    held: list[int] = field(default_factory=list)

    def sample(self, now_s: float) -> None:
        all_of_it = [self.process, *self.process.children(recursive=True)]
        self.at_s.append(now_s)
        self.held.append(sum(one.memory_info().rss for one in all_of_it))

    @property
    def _warm(self) -> NDArray[np.float64]:
        """What it held once its caches were full, in MiB."""
        at = np.array(self.at_s)
        return np.array(self.held, float)[at >= at[0] + WARM * SECONDS] / 2**20

    def report(self) -> str:
        """What it held in the beginning, in the middle, and in the end; and how that grew."""
        at, held = np.array(self.at_s), np.array(self.held, float) / 2**20
        tenth = max(1, len(held) // 10)
        middle = len(held) // 2
        parts = (held[:tenth], held[middle : middle + tenth], held[-tenth:])
        begin, between, end = (float(np.median(part)) for part in parts)
        warm = self._warm
        slope = np.polyfit(at[-len(warm) :], warm, 1)[0] * 3600
        return (
            f"{self.name}: {begin:.1f} MiB in the beginning, {between:.1f} in the middle, "
            f"{end:.1f} in the end of {at[-1] - at[0]:.0f} s; after a quarter of that "
            f"{warm.min():.1f} to {warm.max():.1f}, {slope:+.1f} MiB an hour"
        )

    @property
    def growth(self) -> float:
        """MiB from the first quarter of its warm time to the last."""
        first, last = (float(np.median(part)) for part in np.array_split(self._warm, 4)[::3])
        return last - first


@pytest.mark.timeout(SECONDS + 240)
def test_a_camera_in_a_loop_takes_no_more_and_more_memory(tmp_path: Path) -> None:
    if (why := why_not("rtsp-rs")) is not None:
        pytest.skip(why)
    named = os.environ.get("FEATHERWIRE_SOAK_BUNDLE")
    bundle = Bundle.load(named) if named else predicting_bundle(tmp_path / "bundle")
    video = Path(os.environ.get("FEATHERWIRE_SOAK_VIDEO") or drawn(tmp_path / "drawn.mp4"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        camera = RtspServer("rtsp-rs", probe.getsockname()[1], video)
    serve = ("--bundle", bundle.origin, "--bundles", "none", "--tasks", "none")
    try:
        camera.start()
        with server_process(*serve, log=tmp_path / "log") as (server, ready):
            address = ready["listening"]
            words = [
                "--server", address, "--bundle", bundle.origin, "--input", "rtsp_transport=udp",
                "--spool", str(tmp_path / "spool"), *MORE,
            ]  # fmt: skip
            # What a test's reader keeps of what the edge prints is this process's, not the edge's.
            with streaming(camera.url, *words) as edge:
                edge.until(lambda: edge.results, 60)
                memories = [
                    Memory("edge", psutil.Process(edge.process.pid)),
                    Memory("server", psutil.Process(server.pid)),
                ]
                end_s = time.monotonic() + SECONDS
                while (now_s := time.monotonic()) < end_s:
                    assert edge.process.poll() is None, edge.events[-3:]
                    for one in memories:
                        one.sample(now_s)
                    time.sleep(SAMPLE_S)
                for one in memories:  # before anything else can fail
                    print(one.report())
                status, end = edge.end()
            with ResultClient(address) as client:
                records = list(client.records())
    finally:
        camera.kill()
    print(json.dumps(end))
    print(f"{len(edge.results)} results, {len(records)} in the log")
    assert status == 0
    told = [one["sequence"] for one in edge.results]
    assert sorted(told) == list(range(1, len(told) + 1))
    assert {one["error"] for one in edge.results} == {None}
    # What was in flight when the edge was stopped has its result in the log, and not yet here.
    assert [one.sequence for one in records] == list(range(1, len(records) + 1))
    assert len(records) >= len(told)
    assert {one.name: one.growth for one in memories if one.growth >= GROWTH} == {}


def drawn(path: Path) -> Path:
    """A video of 256x192, in which little moves."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 256, 192, "yuv420p"
        for number, picture in enumerate(scene(70)):
            large = picture.repeat(4, 0).repeat(4, 1)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(large))
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path

"""A server from which nearly all of its processor is taken while cameras send: no frame is late."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from edge_client.spool import Spool
from shared.bundle import Bundle
from tests.support.servers import server_process

CAMERAS = 3
FRAMES = 8
RUNS_S, STOPS_S = 0.01, 0.07


@contextmanager
def starved(pid: int) -> Iterator[None]:
    """The process and its children run an eighth of the time."""
    over = threading.Event()

    def pids() -> list[int]:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def work() -> None:
        while not over.is_set():
            found = pids()
            for one in found:
                os.kill(one, signal.SIGSTOP)
            time.sleep(STOPS_S)
            for one in found:
                os.kill(one, signal.SIGCONT)
            over.wait(RUNS_S)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("workers", [0, 2])
def test_no_frame_is_late_when_the_processor_is_taken_away(
    tiny_bundle: Bundle, encoder: EdgeEncoder, tmp_path: Path, workers: int
) -> None:
    image = np.random.default_rng(1).integers(0, 255, (768, 768, 3)).astype(np.uint8)
    config = tmp_path / "server.yaml"
    config.write_text("frame_deadline_s: 2.0\ndeadline_per_megapixel_s: 0\n")
    arguments = ["--bundle", tiny_bundle.origin, "--tasks", "none", "--config", str(config)]
    arguments += ["--workers", str(workers)]

    def camera(number: int) -> list[str]:
        """The first has a spool; the others send directly."""
        spool = Spool.open(tmp_path / "spool") if number == 0 else None
        reasons = []
        with EdgeSession(
            ready["listening"], device=f"camera-{number}", encoder=encoder, spool=spool
        ) as session:
            for result in session.stream([image] * FRAMES, picture=True, state=3):
                errors = [result.error, result.picture_error]
                reasons += [str(error) for error in errors if error is not None] or ["ok"]
        return reasons

    with server_process(*arguments, log=tmp_path / "log") as (process, ready):
        began = time.monotonic()
        with starved(process.pid), ThreadPoolExecutor(CAMERAS) as pool:
            reasons = list(pool.map(camera, range(CAMERAS)))
        print(f"{time.monotonic() - began:.1f} s")
        assert reasons == [["ok"] * FRAMES] * CAMERAS, (tmp_path / "log").read_text()[-3000:]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

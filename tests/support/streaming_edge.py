"""`featherwire-edge stream --json` as a process of its own, and what it prints."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
EDGE = "from edge_client.cli import main; main()"
CLOUD = "from cloud_server.cli import main; main()"
END_S = 60


def command(code: str, *words: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    return subprocess.run(
        command(code, *words), env=environment(), capture_output=True, text=True, timeout=END_S
    )


class Stream:
    """The running command; ``events`` grows as it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def results(self) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == "result"]

    @property
    def statuses(self) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == "status"]

    def until(self, condition: Callable[[], object], seconds: float = END_S) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.events[-3:]
            assert self.process.poll() is None or condition(), self.events[-3:]
            time.sleep(0.02)

    def end(self, number: int | None = signal.SIGTERM) -> tuple[int, dict[str, Any]]:
        """Its exit status, after a signal unless that is None, and the last event."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(END_S)
        self._reader.join(10)
        assert self.events[-1]["event"] == "end", self.events[-3:]
        return status, self.events[-1]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))


@contextmanager
def streaming(
    *words: object, stdin: int | None = None, prefix: Sequence[str] = ()
) -> Iterator[Stream]:
    process = subprocess.Popen(
        [*prefix, *command(EDGE, "stream", *words, "--json", "--status-every", 0.2)],
        env=environment(),
        stdout=subprocess.PIPE,
        stdin=stdin,
        text=True,
    )
    try:
        yield Stream(process)
    finally:
        process.kill()
        process.wait(10)


def jpeg(grey: int, *, width: int = 96) -> bytes:
    """A picture of 96x64, black but for so many columns of this grey."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, :width] = grey
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG")
    return data.getvalue()

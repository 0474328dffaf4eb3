"""Real servers for these tests: one as a process of its own, others in a thread with test tasks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_server.serve.service import open_server
from cloud_server.serve.settings import ServerSettings
from shared.bundle import Bundle
from shared.results import Box, Detection, ModelInfo, TaskResult

ROOT = Path(__file__).resolve().parents[2]
SERVE = "from cloud_server.cli import main; main()"
BOX = Box(x_min=1, y_min=2, x_max=3, y_max=4)


class FixedTask:
    """A task of known length: waits ``delay_s``, finds one thing, fails on one width."""

    def __init__(self, name: str, delay_s: float = 0.0, fails_at_width: int | None = None) -> None:
        self.name = name
        self.models = [ModelInfo(name=f"{name}-model", version="1", licence="Apache-2.0")]
        self._delay_s = delay_s
        self._fails_at_width = fails_at_width

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        results = []
        for image in images:
            time.sleep(self._delay_s)
            if image.shape[1] == self._fails_at_width:
                raise ZeroDivisionError("this width is more than the task can bear")
            found = Detection(box=BOX, class_id=0, class_name="thing", score=0.5)
            results.append(TaskResult(task=self.name, model=self.models, detections=[found]))
        return results


class ServerThread:
    """A server on its own event loop in this process, so that tests can give it tasks."""

    def __init__(self, settings: ServerSettings, tasks: dict[str, Callable[[], Any]]) -> None:
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(settings, tasks)), daemon=True
        )
        self._thread.start()
        assert self._ready.wait(180)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        with suppress(RuntimeError):  # it has stopped already
            self._loop.call_soon_threadsafe(self.server.stop)

    def join(self, timeout_s: float = 30) -> bool:
        """Whether every stream came to its end."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive()
        return self._drained

    async def _main(self, settings: ServerSettings, tasks: dict[str, Callable[[], Any]]) -> None:
        try:
            self._loop = asyncio.get_running_loop()
            self.server, self.engine, _ = await open_server(settings, more_tasks=tasks)
            self.address = await self.server.start("127.0.0.1:0")
        except BaseException as error:  # noqa: BLE001  # told in the test's own thread
            self._failure = error
            return
        finally:
            self._ready.set()
        self._drained = await self.server.wait()


@contextmanager
def server_process(
    *arguments: str,
    log: Path | None = None,
    code: str = SERVE,
    environment: Mapping[str, str] | None = None,
    insecure: bool = True,
    prefix: Sequence[str] = (),
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """``featherwire-cloud serve`` as a process; yields it and the JSON line it prints.

    prefix: words before the command, such as ``ip netns exec NAME``.
    """
    listen = ("--listen", "127.0.0.1:0", "--json", *(("--insecure",) if insecure else ()))
    command = [*prefix, sys.executable, "-c", code, "serve", *listen, *arguments]
    data = tempfile.TemporaryDirectory()
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FEATHERWIRE_DATA": data.name,
        **(environment or {}),
    }
    log = log or Path(data.name) / "server-process.log"
    with open(log, "w") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=variables
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the server ended with {process.wait(10)}:\n{log.read_text()[-8000:]}"
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(10)
        data.cleanup()


def settings_of(bundle: Bundle, data: Path, /, **more: Any) -> ServerSettings:
    """Settings of a server: one bundle, no tasks, no TLS, unless ``more`` says otherwise."""
    defaults = {
        "bundle": bundle.origin,
        "bundles": (),
        "tasks": (),
        "insecure": True,
        "drain_deadline_s": 5.0,
        "data": data,
    }
    return ServerSettings.load(None, **(defaults | more))

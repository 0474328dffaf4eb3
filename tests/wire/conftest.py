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
import pytest
from numpy.typing import NDArray

from cloud_server.serve.service import open_server
from cloud_server.serve.settings import ServerSettings
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.results import Box, Detection, ModelInfo, TaskResult
from tests.support.feature_bundle import make_feature_bundle
from tests.support.tiny_bundle import make_tiny_bundle

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


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny-bundle"))


@pytest.fixture(scope="session")
def feature_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Features alone, with a tail that detects red and blue blocks."""
    return make_feature_bundle(tmp_path_factory.mktemp("feature-bundle"))


@pytest.fixture(scope="session")
def feature_encoder(feature_bundle: Bundle) -> EdgeEncoder:
    return EdgeEncoder(feature_bundle)


@pytest.fixture(scope="session")
def encoder(tiny_bundle: Bundle) -> EdgeEncoder:
    return EdgeEncoder(tiny_bundle)


@pytest.fixture(scope="session")
def image() -> NDArray[np.uint8]:
    """uint8 96x160x3: a gradient with noise."""
    rng = np.random.default_rng(5)
    ramp = np.linspace(0, 200, 160)[None, :, None] + rng.integers(0, 56, (96, 160, 3))
    return ramp.astype(np.uint8)


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


@pytest.fixture
def start_server(tiny_bundle: Bundle, tmp_path: Path) -> Iterator[Callable[..., ServerThread]]:
    """Starts servers: ``start_server({"slow": lambda: FixedTask(...)}, **settings)``."""
    servers: list[ServerThread] = []

    def start(
        tasks: dict[str, Callable[[], Any]] | None = None, /, **settings: Any
    ) -> ServerThread:
        defaults = {
            "bundle": tiny_bundle.origin,
            "bundles": (),
            "tasks": (),
            "insecure": True,
            "drain_deadline_s": 5.0,
            "data": tmp_path / f"data-{len(servers)}",
        }
        server = ServerThread(ServerSettings.load(None, **(defaults | settings)), tasks or {})
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()
        server.stop()
        server.join()


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


@pytest.fixture(scope="module")
def server(tiny_bundle: Bundle) -> Iterator[str]:
    """HOST:PORT of a server process without tasks."""
    with server_process("--bundle", tiny_bundle.origin, "--bundles", "none", "--tasks", "none") as (
        _,
        ready,
    ):
        yield ready["listening"]

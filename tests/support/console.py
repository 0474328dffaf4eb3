"""A server with its console, and a device that streams to it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_server.auth.tokens import Role
from cloud_server.console.view import commands
from cloud_server.fleet.client import FleetClient
from edge_client import EdgeSession
from shared.proto.featherwire.v1 import fleet_pb2
from shared.rpc.access import Access
from tests.support.access import Keys
from tests.support.servers import ROOT, SERVE

SHOWN = ("chelsea", "astronaut", "coffee", "china")


@dataclass(frozen=True)
class Running:
    """A server with TLS and tokens, and its console."""

    server: str
    url: str
    keys: Keys
    operator: str
    consumer: str
    device_token: str
    process: Any

    @property
    def access(self) -> Access:
        """How an operator's program comes in."""
        return self.keys.access(self.operator)


@contextmanager
def console_process(server: str, data: Path, *more: str) -> Iterator[str]:
    """`featherwire-cloud console` as a process; yields where browsers come."""
    arguments = ("--server", server, "--listen", "127.0.0.1:0", "--data", str(data), *more)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, "console", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["console"]
    finally:
        process.terminate()
        assert process.wait(20) == 0


def set_state(running: Running, state: int) -> None:
    """What the device shall send, whatever a test before has told it."""
    with FleetClient(running.server, running.access) as client:
        client.send(fleet_pb2.DeviceSelector(devices=["cam-1"]), commands.set_state(state))


@contextmanager
def streaming(
    running: Running,
    photos: dict[str, NDArray[np.uint8]],
    *,
    pause_s: float = 0.4,
    names: Sequence[str] = SHOWN,
    device: str = "cam-1",
) -> Iterator[Callable[[], list[int]]]:
    """A device sends photos until the end; gives the bytes of the frames that have come back."""
    token = (
        running.device_token
        if device == "cam-1"
        else running.keys.token(Role.DEVICE, device=device)
    )
    stop = threading.Event()
    sizes: list[int] = []

    def work() -> None:
        with EdgeSession(
            running.server, device=device, access=running.keys.access(token)
        ) as session:
            for name in itertools.cycle(names):
                if stop.wait(pause_s):
                    return
                result = session.send(
                    photos[name],
                    tasks=["detection", "segmentation", "landmarks"],
                    state=2,
                    refinable=True,
                )
                if result.analysis is not None:
                    sizes.append(result.analysis.payload_bytes)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: list(sizes)
    finally:
        stop.set()
        thread.join(60)

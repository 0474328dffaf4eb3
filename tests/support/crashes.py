"""Servers that are killed, those who use them all the while, and what must be true in the end.

A test kills ten times, or as often as it can in fifteen seconds, but three times at least.
FEATHERWIRE_CRASH_ROUNDS and FEATHERWIRE_CRASH_SECONDS say otherwise; rounds alone know no time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from cloud_server.consumers import ResultClient
from codec.base import open_cloud
from shared.bundle import Bundle
from shared.errors import FeatherwireError
from tests.support.device import Device
from tests.support.servers import server_process

ROUNDS = int(os.environ.get("FEATHERWIRE_CRASH_ROUNDS", "10"))
SECONDS = float(
    os.environ.get(
        "FEATHERWIRE_CRASH_SECONDS", "inf" if "FEATHERWIRE_CRASH_ROUNDS" in os.environ else "15"
    )
)
LEAST_ROUNDS = 3
TIMEOUT_S = 240 + 180 * ROUNDS
"""Of a whole test: a loaded machine takes minutes to start a server. What a test waits for has
limits of its own, within which something must have come."""


def rounds() -> Iterator[int]:
    """Numbers of the rounds in which something is killed, from 0."""
    until = time.monotonic() + SECONDS
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and time.monotonic() >= until:
            return
        yield number


class Servers:
    """One server after the other, on the same log; ``address`` is the present one's."""

    def __init__(self, bundle: Bundle, variables: dict[str, str], folder: Path) -> None:
        self._bundle = bundle
        self._variables = variables
        self._folder = folder
        self._stack = ExitStack()
        self._starts = 0
        self.address = "127.0.0.1:1"

    def start(self, *arguments: str, code: str | None = None) -> None:
        self._starts += 1
        self._process, ready = self._stack.enter_context(
            server_process(
                "--bundle", self._bundle.origin, "--bundles", "none", "--tasks", "none", *arguments,
                log=self._folder / f"log-{self._starts}", environment=self._variables,
                **({} if code is None else {"code": code}),
            )
        )  # fmt: skip
        self.address = ready["listening"]

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        self._stack.close()

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._stack.close()
        return code

    def workers(self, *, ready: bool = True) -> list[psutil.Process]:
        """The present server's worker processes: those that have loaded, or all."""
        found = [
            one
            for one in psutil.Process(self._process.pid).children()
            if one.status() != psutil.STATUS_ZOMBIE
        ]
        started = {entry["worker_pid"] for entry in self.events("worker_started")}
        return [one for one in found if one.pid in started or not ready]

    def kill_worker(self, rng: random.Random, *, ready: bool = True) -> None:
        """Kill one of ``workers`` as soon as there is one; it is gone when this returns."""
        wait_until(lambda: bool(self.workers(ready=ready)))
        victim = rng.choice(self.workers(ready=ready))
        victim.kill()
        victim.wait(60)

    def events(self, name: str) -> list[dict[str, Any]]:
        """From the logs of all servers; every line is JSON, those that come from workers too."""
        lines = [
            line
            for log in self._folder.glob("log-*")
            for line in log.read_text().splitlines()
            if line.endswith("}")  # it may be being written
        ]
        return [entry for entry in map(json.loads, lines) if entry["event"] == name]

    def close(self) -> None:
        """End the present server, whatever it does."""
        self._stack.close()


class Watcher(threading.Thread):
    """A consumer that follows from the beginning; ``seen`` are (cursor, device, sequence)."""

    def __init__(self, servers: Servers) -> None:
        super().__init__(daemon=True)
        self._servers = servers
        self.seen: list[tuple[int, str, int]] = []
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            after = self.seen[-1][0] if self.seen else 0
            with suppress(FeatherwireError), ResultClient(self._servers.address) as client:
                for response in client.responses(after=after):
                    if response.HasField("record"):
                        one = response.record
                        self.seen.append((one.cursor, one.device, one.sequence))
            time.sleep(0.02)


def check_exactly_once(address: str, devices: Sequence[Device], watcher: Watcher) -> None:
    """Each frame that was acknowledged has one result, and all were told of them in one order."""
    with ResultClient(address) as client:
        records = list(client.records())
        wait_until(lambda: len(watcher.seen) >= len(records))
    assert [one.cursor for one in records] == list(range(1, len(records) + 1))
    assert watcher.seen == [(one.cursor, one.device, one.sequence) for one in records]
    for device in devices:
        own = [one for one in records if one.device == device.device]
        print(
            f"{device.device}: {device.sent} frames, {device.connections} connections, "
            f"{device.duplicates} sent again"
        )
        assert device.complaints == []
        # There are no others.
        assert device.acked == set(range(1, device.sent + 1))
        assert sorted(one.sequence for one in own) == sorted(device.acked)
        # The device has been told the same, in the same order.
        assert [one.result_id for one in own] == list(range(1, device.sent + 1))
        assert [device.results[one.result_id].sequence for one in own] == [
            one.sequence for one in own
        ]
        assert all(one.outcome.HasField("analysis") for one in own)


def check_values(address: str, bundle: Bundle, devices: Sequence[Device]) -> None:
    """Each frame is stored with the values that its device coded, and can be had by itself."""
    codec = open_cloud(bundle)
    with ResultClient(address) as client:
        for device in devices:
            values = None
            for sequence in range(1, device.sent + 1):
                values = codec.decode(device.sent_as(sequence), reference=values)
                alone, _ = client.frame((device.device, "crash", sequence))
                assert alone.reference is None
                assert codec.decode(alone).checksum() == values.checksum(), sequence


def wait_for_acks(devices: Sequence[Device], more: int = 1) -> None:
    """Until each device has been acknowledged so many frames more than now."""
    before = [len(device.acked) for device in devices]
    wait_until(
        lambda: all(
            len(device.acked) >= acked + more for device, acked in zip(devices, before, strict=True)
        )
    )


def wait_until(condition: Callable[[], bool], timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

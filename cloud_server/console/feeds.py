"""What a server tells, as it comes: one stream for all pages that look, none when nobody does.

A feed is shared by the pages of one token. It begins with the first page and is cancelled with the
last; when the server goes away it tries again, and says so until then.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod

import structlog

from cloud_server.consumers.client import AsyncResultClient
from cloud_server.fleet.client import AsyncFleetClient
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import fleet_pb2, results_pb2

LEAST_PAUSE_S = 0.5
MAX_PAUSE_S = 10.0


class Feed(ABC):
    """``version`` rises with every change; ``problem`` is why nothing comes, or None."""

    def __init__(self) -> None:
        self.version = 0
        self.problem: FeatherwireError | None = None
        self.begun = False
        """What was there at the beginning has come."""
        self._pages = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def watched(self) -> bool:
        """Whether any page looks."""
        return self._pages > 0

    def join(self) -> None:
        """One more page looks."""
        self._pages += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def leave(self) -> None:
        """A page has gone."""
        self._pages -= 1
        if self._pages == 0 and self._task is not None:
            self._task.cancel()
            self._task = None

    @abstractmethod
    async def _follow(self) -> None:
        """Read until the server ends it; raises ``FeatherwireError``."""

    def _changed(self) -> None:
        self.version += 1

    def _well(self) -> None:
        self.begun = True
        self.problem = None
        self._changed()

    async def _run(self) -> None:
        pause_s = LEAST_PAUSE_S
        while True:
            try:
                await self._follow()
            except FeatherwireError as error:
                if self.problem is None:
                    pause_s = LEAST_PAUSE_S
                self.problem = error
            except Exception as error:  # noqa: BLE001  # the page must not wait for ever
                structlog.get_logger().error("console_feed_failed", exc_info=error)
                self.problem = FeatherwireError("internal_error", "the console has a fault")
            self._changed()
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)


class FleetFeed(Feed):
    """All devices, by name."""

    def __init__(self, client: AsyncFleetClient) -> None:
        super().__init__()
        self._client = client
        self.devices: dict[str, fleet_pb2.Device] = {}

    async def _follow(self) -> None:
        self.devices = {device.device: device for device in await self._client.devices()}
        self._well()
        async for device in self._client.watch():
            self.devices[device.device] = device
            self._changed()


class ResultFeed(Feed):
    """One device's newest record; ``latest`` is None while there is none."""

    def __init__(self, client: AsyncResultClient, device: str) -> None:
        super().__init__()
        self._client = client
        self._device = device
        self.latest: results_pb2.ResultRecord | None = None

    async def _follow(self) -> None:
        self.latest = await self._client.newest(self._device)
        self._well()
        wanted = results_pb2.ResultFilter(devices=[self._device])
        after = None if self.latest is None else self.latest.cursor
        async for record in self._client.watch(wanted, after):
            self.latest = record
            self._changed()

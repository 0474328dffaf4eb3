"""The server as the console's users reach it: connections, feeds and pictures.

A connection is one token's, shared by all its pages, and closed when idle. A feed is one stream for
all pages of a token that look, none when nobody does: it begins with the first page and is
cancelled with the last; when the server goes away it tries again, and has a ``problem`` until then.
Pictures are reconstructions, made by the server, kept here for a while, few asked for at a time.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import structlog

from cloud_server.auth.tokens import Role
from cloud_server.console.sessions import User
from cloud_server.console.view.timeline import Wanted
from cloud_server.consumers.client import AsyncResultClient
from cloud_server.fleet.client import AsyncFleetClient
from shared.backoff import Backoff
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import bundles_pb2, fleet_pb2, results_pb2
from shared.rpc.access import Access
from shared.rpc.channel import open_async_channel
from shared.rpc.tls_files import WatchedPem
from shared.wire.requests import PictureEncoding, PictureRequest

IDLE_S = 60.0
SWEEP_S = 15.0
OPEN_KNOWN_S = 10.0
BUNDLES_KNOWN_S = 30.0

NOT_LET_IN = frozenset(
    {"unauthenticated", "token_expired", "token_revoked", "forbidden", "refused"}
)


class Connection:
    """One token's clients and feeds."""

    def __init__(self, address: str, access: Access) -> None:
        self._address, self._access = address, access
        channel = open_async_channel(address, access)
        self._channels = [channel]
        self.results = AsyncResultClient(channel, address, access)
        self.fleet = AsyncFleetClient(channel, address, access)
        self.devices = FleetFeed(self.fleet)
        self._of_device: dict[str, ResultFeed] = {}
        self._bundles: list[bundles_pb2.BundleInfo] = []
        self._bundles_at = -BUNDLES_KNOWN_S
        self.used_at = time.monotonic()
        self.calls = 0

    def of_device(self, device: str) -> ResultFeed:
        """The feed of a device's results; join it, and leave it with :meth:`forget`."""
        return self._of_device.setdefault(device, ResultFeed(self.results, device))

    def forget(self) -> None:
        """Drop feeds at which nobody looks."""
        self._of_device = {n: feed for n, feed in self._of_device.items() if feed.watched}

    @property
    def feeds(self) -> list[Feed]:
        """Those that run."""
        return [one for one in (self.devices, *self._of_device.values()) if one.watched]

    async def bundles(self) -> list[bundles_pb2.BundleInfo]:
        """Bundles that the server takes, known for half a minute. Raises ``FeatherwireError``."""
        if time.monotonic() - self._bundles_at >= BUNDLES_KNOWN_S:
            self._bundles = await self.fleet.bundles()
            self._bundles_at = time.monotonic()
        return self._bundles

    async def role(self) -> Role:
        """What the server lets this token do. Raises ``FeatherwireError``: among them forbidden,
        for a token that reads nothing."""
        await self.fleet.check()
        try:
            await self.fleet.audit(count=1)
        except FeatherwireError as error:
            if error.reason == "forbidden":
                return Role.CONSUMER
            raise
        return Role.OPERATOR

    def renew(self) -> None:
        """Reach the server with the TLS files of now, in calls that begin now; feeds that run go on
        until the server ends them."""
        self._channels.append(open_async_channel(self._address, self._access))
        self.results.use(self._channels[-1])
        self.fleet.use(self._channels[-1])

    async def close(self) -> None:
        """Close the channels; what still runs on them ends."""
        for channel in self._channels:
            await channel.close()


class Upstream:
    """The server, as the console's users reach it."""

    def __init__(self, address: str, access: Access) -> None:
        self.address = address
        self._access = access
        self._files = WatchedPem(ca=access.ca, certificate=access.certificate, key=access.key)
        self._by_token: dict[str | None, Connection] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._open: bool | None = None
        self._open_at = -OPEN_KNOWN_S

    @property
    def takes_tokens(self) -> bool:
        """Whether a token may be sent: never over plain text."""
        return self._access.over_tls

    @property
    def streams(self) -> int:
        """Feeds that run, of all users."""
        return sum(len(one.feeds) for one in self._by_token.values())

    def of(self, user: User) -> Connection:
        """The user's connection."""
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep())
        connection = self._by_token.get(user.token)
        if connection is None:
            access = self._access if user.token is None else replace(self._access, token=user.token)
            connection = self._by_token[user.token] = Connection(self.address, access)
        connection.used_at = time.monotonic()
        return connection

    @contextmanager
    def call(self, user: User) -> Iterator[Connection]:
        """The user's connection, which is not closed as long as it is in use here."""
        connection = self.of(user)
        connection.calls += 1
        try:
            yield connection
        finally:
            connection.calls -= 1
            connection.used_at = time.monotonic()

    async def log_in(self, token: str) -> User:
        """Who has this token. Raises ``FeatherwireError``; ``forbidden`` also for a device's."""
        if not self.takes_tokens:
            raise SessionError("refused", "the console reaches its server without TLS")
        with self.call(User(Role.CONSUMER, token)) as connection:
            return User(await connection.role(), token)

    async def anybody(self) -> User | None:
        """The user where the server asks for no token; None where it does, or is away."""
        if self._open is None or time.monotonic() - self._open_at > OPEN_KNOWN_S:
            visitor = User(Role.OPERATOR)
            try:
                with self.call(visitor) as connection:
                    await connection.role()
                self._open = True
            except FeatherwireError as error:
                if error.reason in NOT_LET_IN:
                    self._open = False
                elif self._open is None:
                    # Away: where no token could be sent, none can be wanted.
                    return None if self.takes_tokens else visitor
            self._open_at = time.monotonic()
        return User(Role.OPERATOR) if self._open else None

    async def renew(self) -> None:
        """Reach the server anew where the TLS files have been replaced."""
        if await asyncio.to_thread(self._files.refresh):
            structlog.get_logger().info("upstream_certificates_replaced")
            for connection in list(self._by_token.values()):
                connection.renew()

    async def close(self) -> None:
        """Close every connection."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in self._by_token.values():
            await connection.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            before = time.monotonic() - IDLE_S
            for token, one in list(self._by_token.items()):
                one.forget()
                if not one.feeds and not one.calls and one.used_at < before:
                    del self._by_token[token]
                    await one.close()


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
        backoff = Backoff(LEAST_PAUSE_S, MAX_PAUSE_S)
        while True:
            try:
                await self._follow()
            except FeatherwireError as error:
                if self.problem is None:
                    backoff.reset()
                self.problem = error
            except Exception as error:  # noqa: BLE001  # the page must not wait for ever
                structlog.get_logger().error("console_feed_failed", exc_info=error)
                self.problem = FeatherwireError("internal_error", "the console has a fault")
            self._changed()
            await asyncio.sleep(backoff.next_s())


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


KEPT_BYTES = 48 * 2**20
AT_ONCE = 2
"""Reconstructions that the console asks for at a time: the server has frames to process."""

WISH = PictureRequest(PictureEncoding.WEBP, 90)


class Pictures:
    """Gets pictures, each once however many pages wait for it."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._kept: OrderedDict[tuple[str | None, Wanted], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._coming: dict[tuple[str | None, Wanted], asyncio.Task[bytes]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)

    async def get(self, user: User, wanted: Wanted) -> bytes:
        """WebP. Raises ``FeatherwireError``: the server's own."""
        key = (user.token, wanted)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._coming:
            task = asyncio.create_task(self._fetch(user, wanted))
            self._coming[key] = task
            task.add_done_callback(lambda _: self._coming.pop(key, None))
        data = await asyncio.shield(self._coming[key])
        self._keep(key, data)
        return data

    async def _fetch(self, user: User, wanted: Wanted) -> bytes:
        frame = results_pb2.FrameKey(
            device=wanted.device, session=wanted.session, sequence=wanted.sequence
        )
        async with self._places:
            with self._upstream.call(user) as connection:
                _, picture = await connection.results.frame(frame, state=wanted.state, picture=WISH)
        return b"" if picture is None else picture.data

    def _keep(self, key: tuple[str | None, Wanted], data: bytes) -> None:
        if key in self._kept:
            return
        self._kept[key] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > KEPT_BYTES:
            _, old = self._kept.popitem(last=False)
            self._kept_bytes -= len(old)

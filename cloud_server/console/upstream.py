"""The server as the console's users reach it: connections and feeds.

A connection is one token's, shared by all its pages, and closed when idle. A feed is one stream for
all pages of a token that look, none when nobody does: it begins with the first page and is
cancelled with the last; when the server goes away it tries again, and has a ``problem`` until then.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import structlog

from cloud_server.auth.tokens import Role
from cloud_server.console.sessions import User
from cloud_server.consumers.client import AsyncResultClient
from cloud_server.fleet.client import AsyncFleetClient
from cloud_server.fleet.words import told_apart
from shared.backoff import Backoff
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import bundles_pb2, fleet_pb2, results_pb2
from shared.rpc.access import Access
from shared.rpc.channel import open_async_channel
from shared.rpc.tls_files import WatchedPem

IDLE_S = 60.0
SWEEP_S = 15.0
OPEN_KNOWN_S = 10.0
BUNDLES_KNOWN_S = 30.0
LET_IN_KNOWN_S = 5.0

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
        self._let_in_at = -LET_IN_KNOWN_S
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

    async def bundle_names(self) -> dict[str, str]:
        """What people call them, by id. Raises ``FeatherwireError``."""
        return told_apart((one.bundle_id, one.name, one.version) for one in await self.bundles())

    async def bundles(self) -> list[bundles_pb2.BundleInfo]:
        """Bundles that the server takes, known for half a minute. Raises ``FeatherwireError``."""
        if time.monotonic() - self._bundles_at >= BUNDLES_KNOWN_S:
            self._bundles = await self.fleet.bundles()
            self._bundles_at = time.monotonic()
        return self._bundles

    async def role(self, tried_for: str) -> Role:
        """What the server lets this token do. Raises ``FeatherwireError``: among them forbidden,
        for a token that reads nothing.

        tried_for: who logs in with it; the server's audit has it when the token is refused.
        """
        role = (await self.fleet.caller(tried_for)).role
        if role not in {Role.OPERATOR, Role.CONSUMER}:
            await self.fleet.check(tried_for)  # it is refused, and that is noted
            raise SessionError("forbidden", "this token reads nothing")
        self._let_in_at = time.monotonic()
        return Role(role)

    async def check(self) -> None:
        """Raise ``FeatherwireError`` when the token is no longer good; known for some seconds."""
        if time.monotonic() - self._let_in_at >= LET_IN_KNOWN_S:
            await self.fleet.caller()
            self._let_in_at = time.monotonic()

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

    async def log_in(self, token: str, tried_for: str) -> User:
        """Who has this token; tried_for: the address of whoever shows it.

        Raises ``FeatherwireError``; ``forbidden`` also for a device's.
        """
        if not self.takes_tokens:
            raise SessionError("refused", "the console reaches its server without TLS")
        with self.call(User(Role.CONSUMER, token)) as connection:
            return User(await connection.role(tried_for), token)

    async def refuse(self, tried_for: str) -> None:
        """Have the server note that somebody has tried to log in with what is no token."""
        with suppress(FeatherwireError), self.call(User(Role.CONSUMER)) as connection:
            await connection.fleet.check(tried_for)

    async def anybody(self) -> User | None:
        """The user where the server asks for no token; None where it does, or is away."""
        if self._open is None or time.monotonic() - self._open_at > OPEN_KNOWN_S:
            visitor = User(Role.OPERATOR)
            try:
                with self.call(visitor) as connection:
                    self._open = not (await connection.fleet.caller()).needs_token
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
        async for change in self._client.watch():
            if change.forgotten:
                self.devices.pop(change.forgotten, None)
            else:
                self.devices[change.device.device] = change.device
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

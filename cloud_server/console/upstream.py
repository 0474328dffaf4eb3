"""Connections to the server: one a token, shared by all pages of that token, closed when idle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from cloud_server.auth.tokens import Role
from cloud_server.console.feeds import Feed, FleetFeed, ResultFeed
from cloud_server.console.sessions import User
from cloud_server.consumers.client import AsyncResultClient
from cloud_server.fleet.client import AsyncFleetClient
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import bundles_pb2
from shared.rpc.access import Access
from shared.rpc.channel import open_async_channel

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
        self._channel = open_async_channel(address, access)
        self.results = AsyncResultClient(self._channel, address, access)
        self.fleet = AsyncFleetClient(self._channel, address, access)
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
        """What the server takes, as it said a moment ago. Raises ``FeatherwireError``."""
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

    async def close(self) -> None:
        """Close the channel; what still runs on it ends."""
        await self._channel.close()


class Upstream:
    """The server, as the console's users reach it."""

    def __init__(self, address: str, access: Access) -> None:
        self.address = address
        self._access = access
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

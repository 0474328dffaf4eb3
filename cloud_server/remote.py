"""A server as its operators and consumers reach it: channels, and failures as typed errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from shared.errors import FeatherwireError, SessionError
from shared.wire.address import split_address, why_unreachable
from shared.wire.failures import error_in_metadata
from shared.wire.pem import read_tls_files
from shared.wire.transport import client_options


@dataclass(frozen=True, slots=True)
class Access:
    """How to come in: whether over TLS, with which PEM files, and with which token.

    Files and a token imply TLS: a token is never sent over plain text.
    """

    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = field(default=None, repr=False)
    name: str | None = None
    """What the server's certificate calls it, where that is not the host of the address."""

    def open_channel(self, address: str) -> grpc.Channel:
        """A channel to ``HOST:PORT``. Raises ``SessionError``: bad_address, bad_tls_files."""
        credentials = self._credentials(address)
        if credentials is None:
            return grpc.insecure_channel(address, options=client_options())
        return grpc.secure_channel(address, credentials, options=self._options())

    def open_async_channel(self, address: str) -> grpc.aio.Channel:
        """As ``open_channel``, for the event loop that runs."""
        credentials = self._credentials(address)
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=client_options())
        return grpc.aio.secure_channel(address, credentials, options=self._options())

    def _options(self) -> list[tuple[str, int | str]]:
        named = [] if self.name is None else [("grpc.ssl_target_name_override", self.name)]
        return [*client_options(), *named]

    def _credentials(self, address: str) -> grpc.ChannelCredentials | None:
        split_address(address)
        if self == Access():
            return None
        ca, certificate, key = read_tls_files(
            ca=self.ca, certificate=self.certificate, key=self.key
        )
        credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        if self.token is not None:
            credentials = grpc.composite_channel_credentials(
                credentials, grpc.access_token_call_credentials(self.token)
            )
        return credentials


def error_from_call(
    error: grpc.RpcError, address: str, access: Access | None = None
) -> FeatherwireError:
    """The server's own error when it sent one, or what the status code says.

    Blocks for a second at most, to find out why there was no connection.
    """
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    if (sent := error_in_metadata(error.trailing_metadata())) is not None:
        return sent
    code = error.code()
    text = error.details() or code.name
    if code is grpc.StatusCode.UNAVAILABLE:
        if "failed to connect" not in text:
            return SessionError("unreachable", f"{address} has closed the connection")
        tls = access is not None and access != Access()
        return SessionError("unreachable", why_unreachable(address, tls=tls))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return SessionError("unreachable", f"{address} did not answer in time")
    return SessionError("refused", f"{address}: {text}")


@contextmanager
def typed_errors(address: str, access: Access | None) -> Iterator[None]:
    """Calls that fail in it raise what :func:`error_from_call` says."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_from_call(error, address, access) from None


@asynccontextmanager
async def typed_async_errors(address: str, access: Access) -> AsyncIterator[None]:
    """As :func:`typed_errors`, without blocking the event loop."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise await asyncio.to_thread(error_from_call, error, address, access) from None

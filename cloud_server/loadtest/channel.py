"""Connections of simulated devices, each its own, and why they end."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from shared.errors import FeatherwireError, SessionError
from shared.rpc.access import Access
from shared.rpc.channel import open_async_channel, open_channel
from shared.rpc.errors import error_in_metadata

OpenChannel = Callable[[], grpc.aio.Channel]

_REFUSALS = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


def opener(address: str, access: Access) -> OpenChannel:
    """Opens channels to ``HOST:PORT``. Raises ``SessionError``: bad_address, bad_tls_files."""
    open_channel(address, access).close()  # what is wrong with them is said once, and now
    return lambda: open_async_channel(address, access)


def error_of(error: grpc.aio.AioRpcError) -> FeatherwireError:
    """The server's own error when it sent one; else that it is away, or refuses."""
    if (sent := error_in_metadata(error.trailing_metadata())) is not None:
        return sent
    reason = "refused" if error.code() in _REFUSALS else "unreachable"
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        reason = "busy"  # gRPC's own bound on calls at once
    return SessionError(reason, error.details() or error.code().name)

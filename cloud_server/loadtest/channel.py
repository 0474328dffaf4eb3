"""Connections of simulated devices, each its own, and why they end."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from google.protobuf.message import DecodeError

from cloud_server.remote import Access
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import types_pb2
from shared.wire import error_from_message
from shared.wire.address import split_address
from shared.wire.pem import check_tls_files
from shared.wire.transport import ERROR_METADATA_KEY, client_options

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
    split_address(address)
    if access == Access():
        return lambda: grpc.aio.insecure_channel(address, options=client_options())
    check_tls_files(ca=access.ca, certificate=access.certificate, key=access.key)
    ca, certificate, key = (
        None if file is None else file.read_bytes()
        for file in (access.ca, access.certificate, access.key)
    )
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    if access.token is not None:
        credentials = grpc.composite_channel_credentials(
            credentials, grpc.access_token_call_credentials(access.token)
        )
    return lambda: grpc.aio.secure_channel(address, credentials, options=client_options())


def error_of(error: grpc.aio.AioRpcError) -> FeatherwireError:
    """The server's own error when it sent one; else that it is away, or refuses."""
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA_KEY and isinstance(value, bytes):
            try:
                return error_from_message(types_pb2.Error.FromString(value))
            except DecodeError:
                break
    reason = "refused" if error.code() in _REFUSALS else "unreachable"
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        reason = "busy"  # gRPC's own bound on calls at once
    return SessionError(reason, error.details() or error.code().name)

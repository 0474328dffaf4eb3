"""Failed calls as typed errors, and why a server cannot be reached."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError

from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import types_pb2
from shared.rpc.access import Access, split_address
from shared.rpc.proxies import proxy_for
from shared.wire.failures import error_from_message
from shared.wire.transport import ERROR_METADATA_KEY

HANDSHAKE_S = 1.0
"""For each step of finding out why TLS fails."""

WANTS_CERTIFICATE = "it wants a certificate of this client's (--tls-cert, --tls-key), of its own CA"

CallError: TypeAlias = grpc.RpcError
"""What gRPC raises when a call fails."""

_REASON_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: "unreachable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline_exceeded",
    grpc.StatusCode.CANCELLED: "closed",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "busy",  # gRPC's own bound on calls at once
}


def error_from_call(error: CallError, address: str) -> FeatherwireError:
    """The server's own error when it sent one, else a ``SessionError`` for the status code.

    Its reasons: unreachable, deadline_exceeded, closed (the call was cancelled),
    busy, message_too_large, or refused for any other code; with ``server`` and ``code``.
    """
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)  # every failed call is one of them
    if (sent := error_in_metadata(error.trailing_metadata())) is not None:
        return sent
    code = error.code()
    text = error.details() or code.name
    reason = _REASON_BY_CODE.get(code, "refused")
    if reason == "busy" and "larger than max" in text:
        reason = "message_too_large"
    return SessionError(reason, f"{address}: {text}", server=address, code=code.name)


def lost_error(error: CallError, address: str) -> FeatherwireError:
    """As :func:`error_from_call`, of a call that has had answers: a connection that is lost is said
    to be, in words."""
    found = error_from_call(error, address)
    if found.details.get("code") == "UNAVAILABLE":
        return SessionError("unreachable", f"{address} has closed the connection", **found.details)
    return found


def explained_error(error: CallError, address: str, access: Access | None) -> FeatherwireError:
    """As :func:`error_from_call`, with why there was no connection or no answer in words.

    Blocks for a second at most, to find that out.
    """
    found = error_from_call(error, address)
    if found.details.get("code") == "UNAVAILABLE":
        if "failed to connect" in found.message:
            why = why_unreachable(address, access)
        else:
            why = f"{address} has closed the connection"
        return SessionError("unreachable", why)
    if found.details.get("code") == "DEADLINE_EXCEEDED":
        return SessionError("unreachable", f"{address} did not answer in time")
    return found


@contextmanager
def typed_errors(address: str, access: Access | None) -> Iterator[None]:
    """Turn failed calls inside into the errors of :func:`explained_error`."""
    try:
        yield
    except grpc.RpcError as error:
        raise explained_error(error, address, access) from None


@asynccontextmanager
async def typed_async_errors(address: str, access: Access | None) -> AsyncIterator[None]:
    """As :func:`typed_errors`, without blocking the event loop."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise await asyncio.to_thread(explained_error, error, address, access) from None


def error_in_metadata(
    metadata: Iterable[tuple[str, str | bytes]] | None,
) -> FeatherwireError | None:
    """The error that a server sent with a failed call's trailing metadata; None: it sent none."""
    for key, value in metadata or ():
        if key == ERROR_METADATA_KEY and isinstance(value, bytes):
            try:
                return error_from_message(types_pb2.Error.FromString(value))
            except DecodeError:
                return None
    return None


def why_unreachable(address: str, access: Access | None) -> str:
    """Why no channel to ``HOST:PORT`` is had, in words.

    gRPC gives no reason; whether anything listens there, and how a handshake fails, explains most
    of it. Blocks for a few seconds at most.
    """
    host, port = split_address(address)
    proxy = proxy_for(host, port)
    if proxy is not None:
        return (
            f"no connection with {address} through the proxy {proxy.shown} (of the variable "
            f"{proxy.variable}); to reach it directly add {host} to no_proxy"
        )
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except socket.gaierror:
        return f"no server answered at {address}: the name {host} is not known"
    except OSError:
        return f"no server answered at {address}"
    if access is not None and access.over_tls:
        return f"TLS failed with {address}: {_tls_complaint(address, access)}"
    return f"{address} takes connections but speaks no plain gRPC; it may want TLS"


def _tls_complaint(address: str, access: Access) -> str:
    """How a handshake with the server fails, in words; all that it can be where it does not."""
    host, port = split_address(address)
    try:
        context = ssl.create_default_context(cafile=access.ca)
        context.set_alpn_protocols(["h2"])
        if access.certificate is not None:
            context.load_cert_chain(access.certificate, access.key, password=lambda: b"")
        with (
            socket.create_connection((host, port), timeout=HANDSHAKE_S) as plain,
            context.wrap_socket(plain, server_hostname=access.name or host) as secured,
        ):
            # With TLS 1.3 a missing certificate ends the connection only now; else gRPC speaks.
            if not secured.recv(1):
                return WANTS_CERTIFICATE
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is refused: {error.verify_message}"
    except ssl.SSLError as error:
        reason = error.reason or ""
        if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
            return WANTS_CERTIFICATE
        if reason in (
            "WRONG_VERSION_NUMBER",
            "RECORD_LAYER_FAILURE",
            "UNEXPECTED_EOF_WHILE_READING",
        ):
            return "it speaks plain text, or something else that is not TLS"
    except OSError:
        pass
    return (
        "it speaks plain text, or its certificate is not signed by the CA or not for this name, or "
        "it wants a certificate"
    )

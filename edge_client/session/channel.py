"""Channels to a server, and gRPC's failures as typed errors."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc

from shared.errors import FeatherwireError, SessionError
from shared.wire.address import split_address, why_unreachable
from shared.wire.failures import error_in_metadata
from shared.wire.pem import check_tls_files, read_tls_files
from shared.wire.transport import client_options

_REASON_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: "unreachable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline_exceeded",
    grpc.StatusCode.CANCELLED: "closed",
}


@dataclass(frozen=True, slots=True)
class TlsClientFiles:
    """PEM files: the server's CA (None: the system's), and the client's own pair for mutual TLS.

    ``token`` is shown to a server that asks for one; it travels over TLS alone.
    """

    server_ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = field(default=None, repr=False)

    def check(self) -> None:
        """Raise ``SessionError("bad_tls_files")`` for files that gRPC could not use."""
        check_tls_files(ca=self.server_ca, certificate=self.certificate, key=self.key)


def open_channel(server: str, tls: TlsClientFiles | None = None) -> grpc.Channel:
    """A channel to ``HOST:PORT``; it connects when it is used.

    Raises ``SessionError``: ``bad_address``, or ``bad_tls_files`` for unreadable files.
    """
    split_address(server)
    if tls is None:
        return grpc.insecure_channel(server, options=client_options())
    ca, certificate, key = read_tls_files(
        ca=tls.server_ca, certificate=tls.certificate, key=tls.key
    )
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    if tls.token is not None:
        credentials = grpc.composite_channel_credentials(
            credentials, grpc.access_token_call_credentials(tls.token)
        )
    return grpc.secure_channel(server, credentials, options=client_options())


def wait_until_ready(
    channel: grpc.Channel, server: str, timeout_s: float, *, tls: bool = False
) -> None:
    """Connect. Raises ``SessionError("unreachable")`` when that takes longer."""
    # Not the future's own timeout, which goes by the wall clock: a jump would end it, or never.
    ready = threading.Event()
    future = grpc.channel_ready_future(channel)
    future.add_done_callback(lambda _: ready.set())
    if not ready.wait(timeout_s):
        future.cancel()
        raise SessionError("unreachable", why_unreachable(server, tls=tls), server=server)


def error_from_call(error: grpc.RpcError, server: str) -> FeatherwireError:
    """The server's own error when it sent one, or what the status code says."""
    call = cast(grpc.Call, error)  # every error that a call raises is that call
    if (sent := error_in_metadata(call.trailing_metadata())) is not None:
        return sent
    code = call.code()
    text = call.details() or code.name
    reason = _REASON_BY_CODE.get(code, "refused")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        reason = "message_too_large"
    return SessionError(reason, f"{server}: {text}", server=server, code=code.name)

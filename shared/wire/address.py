"""Addresses of servers, and why one cannot be reached."""

from __future__ import annotations

import ipaddress
import socket

from shared.errors import SessionError


def split_address(server: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``. Raises ``SessionError("bad_address")``."""
    host, _, port = server.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise SessionError(
            "bad_address", f"{server!r} is not HOST:PORT, such as localhost:7570 or [::1]:7570"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def why_unreachable(server: str, *, tls: bool) -> str:
    """gRPC keeps its reason to itself; whether anything listens there says most of it.

    Blocks for a second at most.
    """
    try:
        socket.create_connection(split_address(server), timeout=1.0).close()
    except OSError:
        return f"no server answered at {server}"
    if tls:
        return (
            f"TLS failed with {server}: it speaks plain text, or its certificate is not signed by "
            "the CA or not for this name, or it wants a certificate"
        )
    return f"{server} takes connections but speaks no plain gRPC; it may want TLS"


def is_loopback(listen: str) -> bool:
    """Whether only this machine reaches ``HOST:PORT``."""
    host = listen.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

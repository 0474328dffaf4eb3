"""Why a server cannot listen at an address, in words."""

from __future__ import annotations

import errno
import socket

_WORDS = {
    errno.EADDRINUSE: "another program listens there already; choose another port, or end that one",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "this user may not; ports below 1024 need more rights",
    errno.EPERM: "this user may not; ports below 1024 need more rights",
    errno.EAFNOSUPPORT: "this machine has no addresses of that kind, such as IPv6",
}


def why_not(listen: str, error: Exception | None = None) -> str:
    """What stands against listening on ``HOST:PORT``: found by trying it.

    error: what was raised there; its own words are used where trying it finds nothing.
    """
    if isinstance(error, OSError) and error.errno in _WORDS:
        return _WORDS[error.errno]
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        return f"{listen!r} is not HOST:PORT"
    try:
        found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
                trial.listen(1)
    except socket.gaierror:
        return f"no address is known for the name {host!r}"
    except OSError as failure:
        return _WORDS.get(failure.errno or 0, failure.strerror or str(failure))
    return "the system did not say why" if error is None else str(error)

"""How a caller reaches a server: its address, TLS with PEM files, and a token.

Nothing here imports gRPC: command lines check their options with it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shared.addresses import shown
from shared.errors import SessionError
from shared.rpc.tls_files import check_tls_files

TOKEN_METADATA_KEY = "authorization"
"""Metadata of a call: ``Bearer TOKEN``, as gRPC's own access tokens."""

FOR_METADATA_KEY = "featherwire-for"
"""Metadata of a call: for whom a console tries a token. The server notes it when it refuses the
token, as what the caller says."""

TOKEN_VARIABLE = "FEATHERWIRE_TOKEN"
"""Environment variable with a token; for programs whose environment nobody else reads."""

MAX_TOKEN_BYTES = 4096
_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is reached: whether over TLS, with which PEM files, and with which token.

    ``ca`` is of the server (None: the system's); ``certificate`` and ``key`` are the caller's own,
    for mutual TLS. Files, a token and a name imply TLS: a token is never sent over plain text.
    ``Access()`` is plain text.
    """

    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = field(default=None, repr=False)
    name: str | None = None
    """The name in the server's certificate, where that is not the host of the address."""

    @property
    def over_tls(self) -> bool:
        """Whether calls travel over TLS."""
        return self != Access()

    def check(self) -> None:
        """Raise ``SessionError("bad_tls_files")`` for files that gRPC could not use."""
        check_tls_files(ca=self.ca, certificate=self.certificate, key=self.key)


def split_address(server: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``. Raises ``SessionError("bad_address")``."""
    host, _, port = server.rpartition(":")
    if "@" in server:  # a password may stand before it
        raise SessionError(
            "bad_address", "a server is HOST:PORT, without a user; a token is a file"
        )
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise SessionError(
            "bad_address",
            f"{shown(server)!r} is not HOST:PORT, such as localhost:7570 or [::1]:7570",
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(listen: str) -> bool:
    """Whether only this machine reaches ``HOST:PORT``."""
    host = listen.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path | None = None) -> str | None:
    """The token of a file, or without one of ``FEATHERWIRE_TOKEN``; None when there is none.

    Raises ``SessionError("bad_token_file")``; its message never repeats what the file holds.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    except OSError as error:
        raise SessionError("bad_token_file", f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        text = ""
    if not text or any(character.isspace() for character in text):
        raise SessionError("bad_token_file", f"{path} does not hold one token, and nothing else")
    return text


def token_of(values: Iterable[str | bytes]) -> str:
    """The token in a call's metadata. Raises ``SessionError("unauthenticated")``."""
    found = list(values)
    if len(found) == 1 and isinstance(found[0], str) and found[0][:7].lower() == _SCHEME:
        return found[0][7:].strip()
    raise SessionError(
        "unauthenticated", "this server wants a token: --token-file, or FEATHERWIRE_TOKEN"
    )

"""What a server must have before it listens: TLS and tokens, unless it is told to do without."""

from __future__ import annotations

import ipaddress

from cloud_server.auth.tokens import any_good
from cloud_server.database import Database
from cloud_server.serve.settings import ServerSettings
from shared.errors import FeatherwireError


def check_transport(settings: ServerSettings) -> None:
    """Raise ``FeatherwireError``: ``tls_missing``, or ``insecure_listen`` for what is not here.

    A server that is to be insecure listens on this machine's loopback alone, unless the settings
    say ``insecure_anywhere``.
    """
    if not settings.insecure:
        if settings.tls_certificate is None:
            raise FeatherwireError(
                "tls_missing",
                "a server needs TLS (--tls-cert, --tls-key; `featherwire-cloud auth dev-ca` makes "
                "files for a trial), or --insecure",
            )
        return
    if not settings.insecure_anywhere and not is_loopback(settings.listen):
        raise FeatherwireError(
            "insecure_listen",
            f"--insecure lets anybody in who reaches {settings.listen}: listen on 127.0.0.1, or "
            "add --insecure-anywhere",
        )


def check_tokens(settings: ServerSettings, database: Database) -> None:
    """Raise ``FeatherwireError("no_tokens")`` for a server that could let nobody in. Blocks."""
    if not settings.insecure and not database.read_now(any_good):
        raise FeatherwireError(
            "no_tokens",
            "nobody has a token for this server: `featherwire-cloud auth token create` makes one "
            "(with the same --data, --database or --config), or give --insecure",
        )


def is_loopback(listen: str) -> bool:
    """Whether only this machine reaches ``HOST:PORT``."""
    host = listen.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

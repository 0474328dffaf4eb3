"""Options of the commands that call a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import FeatherwireError

if TYPE_CHECKING:
    from cloud_server.remote import Access

ServerOption = Annotated[str, typer.Option("--server", metavar="HOST:PORT", help="Which server.")]
TlsOption = Annotated[bool, typer.Option("--tls", help="Use TLS, with the system's CAs.")]
CaOption = Annotated[
    Path | None, typer.Option("--tls-ca", help="PEM file of the server's CA; implies --tls.")
]
CertificateOption = Annotated[
    Path | None, typer.Option("--tls-cert", help="PEM file, for a server that wants one.")
]
KeyOption = Annotated[Path | None, typer.Option("--tls-key", help="PEM file.")]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help="File with a token; or FEATHERWIRE_TOKEN is one. Implies --tls.",
    ),
]


def parse_labels(labels: list[str] | None) -> dict[str, str]:
    """Labels of NAME=VALUE each. Raises ``FeatherwireError("bad_option")``."""
    pairs = [label.partition("=") for label in labels or ()]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise FeatherwireError("bad_option", f"a label is NAME=VALUE, not {name}")
    return {name: value for name, _, value in pairs}


def access(
    tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    token_file: Path | None,
) -> Access:
    """What these options say. Raises ``SessionError("bad_token_file")``."""
    # Before gRPC is imported: it would write its own lines between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from cloud_server.remote import Access
    from shared.wire.credentials import read_token

    return Access(tls, ca, certificate, key, read_token(token_file))

"""Options and helpers that several commands share, each written once."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.cli import takes
from shared.errors import FeatherwireError

if TYPE_CHECKING:
    from shared.rpc.access import Access


TlsCaOption = Annotated[
    Path | None, typer.Option("--tls-ca", help="PEM file of the server's CA; implies --tls.")
]
TlsCertificateOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        help="PEM file of this client's certificate, for a server that wants one.",
    ),
]
TlsKeyOption = Annotated[
    Path | None, typer.Option("--tls-key", help="PEM file of the certificate's key.")
]
LOG_FORMAT = typer.Option("--log-format", help="auto, console or json; on stderr.")
LOG_LEVEL = typer.Option("--log-level", help="debug, info, warning or error.")

# Of commands that read files of features.
BundleOption = Annotated[
    str | None,
    typer.Option("--bundle", help="Bundle folder, zip or name. Default: the file's own."),
]
StateOption = Annotated[
    int | None,
    typer.Option("--state", min=0, help="Decode at this coarser state. Default: the finest."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@dataclass(frozen=True)
class Call:
    """Which server is called, how, and how its answer is printed. Each field is an option."""

    server: Annotated[
        str, typer.Option("--server", metavar="HOST:PORT", help="The server, as HOST:PORT.")
    ]
    tls: Annotated[bool, typer.Option("--tls", help="Use TLS, with the system's CAs.")] = False
    tls_ca: TlsCaOption = None
    tls_certificate: TlsCertificateOption = None
    tls_key: TlsKeyOption = None
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="File with a token; or FEATHERWIRE_TOKEN is one. Implies --tls.",
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document a line.")] = False

    def access(self) -> Access:
        """How to come in. Raises ``SessionError("bad_token_file")``."""
        # Before gRPC is imported: it would write its own lines between ours.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from shared.rpc.access import Access, read_token

        token = read_token(self.token_file)
        return Access(self.tls, self.tls_ca, self.tls_certificate, self.tls_key, token)


calls = takes(Call)
"""Gives a command, whose first parameter is a :class:`Call`, that call's options."""


def print_json(document: dict[str, Any]) -> None:
    """A JSON document in a line of its own, at once."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def parse_labels(labels: list[str] | None) -> dict[str, str]:
    """Labels of NAME=VALUE each. Raises ``FeatherwireError("bad_option")``."""
    pairs = [label.partition("=") for label in labels or ()]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise FeatherwireError("bad_option", f"a label is NAME=VALUE, not {name}")
    return {name: value for name, _, value in pairs}

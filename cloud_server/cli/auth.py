"""featherwire-cloud auth: tokens for callers, and certificates for trials."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloud_server.cli.options import parse_labels
from shared.cli import (
    JsonOption,
    finite,
    print_document,
    print_table,
    stop_on_error,
    takes,
    write_atomically,
)
from shared.errors import FeatherwireError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from cloud_server.auth.tokens import Token

_COLUMNS = ("id", "role", "device", "name", "created", "expires", "state")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    auth = typer.Typer(help="Who may call a server: tokens and certificates.", no_args_is_help=True)
    token = typer.Typer(
        help="Tokens in a server's database; it may be running.", no_args_is_help=True
    )
    token.command("create")(create)
    token.command("list")(list_tokens)
    token.command("revoke")(revoke)
    auth.add_typer(token, name="token")
    auth.command("dev-ca")(dev_ca)
    app.add_typer(auth, name="auth")


@dataclass(frozen=True)
class Administering:
    """Whose tokens, and how the answer is printed. Each field is an option."""

    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="The server's data folder, as for `serve`."),
    ] = None
    database: Annotated[
        str | None,
        typer.Option(
            "--database", metavar="URL", help="The URL of the server's database, as for `serve`."
        ),
    ] = None
    config: Annotated[
        Path | None, typer.Option("--config", help="The server's YAML file, as for `serve`.")
    ] = None
    as_json: JsonOption = False

    def say_nothing_made(self, why: str) -> None:
        """Print why there is no new token."""
        if self.as_json:
            print_document({"made": False, "why": why})
        else:
            sys.stderr.write(f"no token was made: {why}\n")

    @contextmanager
    def connection(self, *, create: bool = False) -> Iterator[Connection]:
        """The server's database, while it may be running. Errors end the command."""
        with stop_on_error(as_json=self.as_json):
            from cloud_server.serve.settings import ServerSettings
            from cloud_server.serve.startup import administered
            from shared.installation import package_version

            settings = ServerSettings.load(self.config, data=self.data, database=self.database)
            with administered(settings, package_version(), create=create) as connection:
                yield connection


@takes(Administering)
def create(
    server: Administering,
    role: Annotated[
        Literal["device", "operator", "consumer"],
        typer.Option("--role", help="What its holder may do."),
    ],
    device: Annotated[
        str | None, typer.Option("--device", help="With --role device: the device's name.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="NAME=VALUE",
            help="Label of the device, by which `fleet` selects it; the device cannot change it. "
            "May be repeated.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="Name of the token in the list and in the audit.")
    ] = "",
    days: Annotated[
        float | None,
        typer.Option(
            "--days",
            parser=finite("days", minimum=0, maximum=36_500),
            help="Days for which it is valid. Default: until it is revoked.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File for the token, in place of stdout."),
    ] = None,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Do nothing when the file is there.")
    ] = False,
    if_none: Annotated[
        bool, typer.Option("--if-none", help="Do nothing when there is a valid token already.")
    ] = False,
) -> None:
    """Make a token. It is shown this once: the database has only its hash."""
    from cloud_server.auth import tokens
    from cloud_server.auth.tokens import Role
    from cloud_server.fleet.audit import note

    if if_missing and output is not None and output.exists():
        server.say_nothing_made(f"{output} is there already")
        return
    with server.connection(create=True) as connection:
        if if_none and tokens.any_good(connection):
            server.say_nothing_made("there is a valid token already")
            return
        if output is not None and output.exists():
            raise FeatherwireError(
                "file_exists",
                f"{output} is there already; a token that is overwritten stays good, so revoke "
                "it, remove the file, or choose another",
            )
        text, made = tokens.create(
            connection,
            Role(role),
            device=device,
            name=name,
            lasts_s=None if days is None else days * 86400,
            labels=parse_labels(labels),
        )
        note(connection, _who(), "CreateToken", _document(made))
        if output is not None:  # before the commit: a token that nobody has is of no use
            write_atomically(output, f"{text}\n".encode(), mode=0o600)
    document = _document(made) | ({"token": text} if output is None else {"file": str(output)})
    if server.as_json:
        print_document(document)
    elif output is None:
        sys.stderr.write(f"token {made.id}, shown this once:\n")
        print(text)
    else:
        print(f"token {made.id} is in {output}")


@takes(Administering)
def list_tokens(server: Administering) -> None:
    """List all tokens, expired and revoked ones too."""
    from cloud_server.auth import tokens

    with server.connection() as connection:
        documents = [_document(token) for token in tokens.every(connection)]
    if server.as_json:
        print_document({"tokens": documents})
        return
    rows = [
        [str(one[column] if one[column] is not None else "-") for column in _COLUMNS]
        for one in documents
    ]
    print_table(_COLUMNS, rows, unbroken={"id", "role"})


@takes(Administering)
def revoke(
    server: Administering,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
) -> None:
    """Revoke a token. Streams that use it end within seconds."""
    from cloud_server.auth import tokens
    from cloud_server.fleet.audit import note

    with server.connection() as connection:
        document = _document(tokens.revoke(connection, token_id))
        note(connection, _who(), "RevokeToken", document)
    if server.as_json:
        print_document(document)
    else:
        print(f"token {token_id} is revoked")


def dev_ca(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            help="DNS name or address of the server; may be repeated. Default: localhost, "
            "127.0.0.1 and ::1.",
        ),
    ] = None,
    days: Annotated[
        int,
        typer.Option(
            "--days",
            min=1,
            max=825,
            help="Days for which the certificates are valid; the CA is for ten years.",
        ),
    ] = 90,
    renew: Annotated[
        bool,
        typer.Option(
            "--renew",
            help="Sign new certificates with the CA that is there, for the names of the old ones "
            "unless --name gives others.",
        ),
    ] = False,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Do nothing when there is a ca.pem.")
    ] = False,
    renew_within: Annotated[
        float | None,
        typer.Option(
            "--renew-within",
            metavar="DAYS",
            parser=finite("renew-within", minimum=0, maximum=825),
            help="With --if-missing: where the server's certificate ends within so many days, and "
            "is of the CA that is there, renew it for the names that it has.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a certificate authority for a trial, and certificates for a server and its clients.

    Its key lies beside what it signs: whoever reads the folder can be the server. A server that
    runs takes renewed certificates without a restart; who trusts the CA needs nothing new.
    """
    from cloud_server.auth.development_ca import (
        DEFAULT_NAMES,
        make_development_ca,
        needs_renewal,
        renew_certificates,
    )

    with stop_on_error(as_json=as_json):
        if renew and if_missing:
            raise FeatherwireError("bad_option", "--renew and --if-missing exclude each other")
        if renew_within is not None and not if_missing:
            raise FeatherwireError("bad_option", "--renew-within goes with --if-missing")
        if renew:
            signed = renew_certificates(folder, names=names, days=days)
        elif not (if_missing and (folder / "ca.pem").exists()):
            signed = make_development_ca(folder, names=names or DEFAULT_NAMES, days=days)
        elif renew_within is not None and needs_renewal(folder, days=renew_within):
            signed = renew_certificates(folder, days=days)
        else:
            if as_json:
                print_document({"files": [], "ends": None})
            return
    if signed.with_ca:
        sys.stderr.write(
            f"the CA itself ends on {signed.ends:%Y-%m-%d}, sooner than in {days} days, and the "
            "certificates end with it; then make a new CA, in another folder\n"
        )
    files = [str(path) for path in signed.files]
    if as_json:
        print_document({"files": files, "ends": signed.ends.isoformat(timespec="seconds")})
    else:
        print("\n".join(files))


# -- parts ---------------------------------------------------------------------------------------


def _document(token: Token) -> dict[str, Any]:
    complaint = token.complaint()
    return {
        "id": token.id,
        "role": token.role.value,
        "device": token.device,
        "name": token.name,
        "labels": dict(token.labels),
        "created": _time(token.created_at),
        "expires": None if token.expires_at is None else _time(token.expires_at),
        "state": "good" if complaint is None else complaint.reason.removeprefix("token_"),
    }


def _time(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")


def _who() -> str:
    try:
        return f"{getpass.getuser()} (this machine)"
    except (KeyError, OSError):
        return "this machine"

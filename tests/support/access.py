"""Certificates and tokens for servers that ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import URL, create_engine

from cloud_server.auth import tokens
from cloud_server.auth.tokens import Role
from cloud_server.database.schema import METADATA
from cloud_server.serve.settings import ServerSettings
from cloud_server.serve.startup import administered
from shared.rpc.access import Access


class Keys:
    """The files of a development CA, and the tokens of a server's data folder."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.data = data

    @property
    def server(self) -> dict[str, Path | bool]:
        """Settings of a server with this certificate and these tokens."""
        return {
            "insecure": False,
            "tls_certificate": self.folder / "server.pem",
            "tls_key": self.folder / "server.key",
            "data": self.data,
        }

    def token(
        self,
        role: Role,
        *,
        device: str | None = None,
        name: str = "",
        lasts_s: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """A new token."""
        with administered(ServerSettings.load(None, data=self.data), "0") as connection:
            text, _ = tokens.create(
                connection, role, device=device, name=name, lasts_s=lasts_s, labels=labels
            )
        return text

    def revoke(self, token: str) -> None:
        """Make a token no good."""
        with administered(ServerSettings.load(None, data=self.data), "0") as connection:
            tokens.revoke(connection, token.split("_")[1])

    def access(self, token: str | None, *, certificate: bool = False) -> Access:
        """How a device, an operator or a consumer comes in."""
        return Access(
            True,
            self.folder / "ca.pem",
            self.folder / "client.pem" if certificate else None,
            self.folder / "client.key" if certificate else None,
            token,
        )


def stored_bytes(data: Path) -> bytes:
    """Everything in the database of a data folder."""
    engine = create_engine(URL.create("sqlite", database=str(data / "log.db")))
    with engine.connect() as connection:
        rows = [
            repr(tuple(row))
            for table in METADATA.sorted_tables
            for row in connection.execute(table.select())
        ]
    engine.dispose()
    files = b"".join(path.read_bytes() for path in sorted(data.glob("log.db*")))
    return "\n".join(rows).encode() + files

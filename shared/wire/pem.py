"""Checks TLS files before gRPC gets them: gRPC aborts the process, or says little, on bad ones."""

from __future__ import annotations

import ssl
from pathlib import Path

from shared.errors import SessionError


def check_tls_files(*, ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Raise SessionError ``bad_tls_files`` unless the files are there, are PEM, and fit.

    A certificate and its key belong together; the key must have no password.
    """
    if (certificate is None) != (key is None):
        given = "certificate" if key is None else "key"
        raise SessionError(
            "bad_tls_files", f"a TLS certificate and its key belong together; only the {given} came"
        )
    for path in (ca, certificate, key):
        if path is not None:
            _check_readable(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (ssl.SSLError, ValueError):
            raise SessionError("bad_tls_files", f"{ca} has no certificate in PEM form") from None
    if certificate is not None and key is not None:
        try:
            context.load_cert_chain(certificate, key, password=lambda: b"")
        except (ssl.SSLError, ValueError):
            raise SessionError(
                "bad_tls_files",
                f"{certificate} and {key} are no certificate and its key without password in PEM "
                "form, or do not fit each other",
            ) from None


def read_tls_files(
    *, ca: Path | None, certificate: Path | None, key: Path | None
) -> tuple[bytes | None, bytes | None, bytes | None]:
    """The bytes of the CA, the certificate and the key. Raises as ``check_tls_files`` does."""
    check_tls_files(ca=ca, certificate=certificate, key=key)
    try:
        found = [None if path is None else path.read_bytes() for path in (ca, certificate, key)]
    except OSError as error:
        raise SessionError("bad_tls_files", str(error)) from None
    return found[0], found[1], found[2]


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise SessionError("bad_tls_files", f"{path}: {error.strerror or error}") from None

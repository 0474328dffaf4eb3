"""PEM files for TLS: checked before gRPC gets them, and taken anew when somebody replaces them.

gRPC aborts the process on some bad files, and gives no reason for others; so they are tried with
Python's ``ssl`` first. Certificates are renewed under a running process (certbot writes file after
file, Kubernetes turns a link): what does not fit together yet is not taken, and looked at again.
"""

from __future__ import annotations

import os
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from shared.errors import SessionError

_TRIES = 3
"""Files that change while they are read are read again, so often."""

_Seen = tuple[tuple[int, int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Pem:
    """Contents of PEM files that fit each other; None where there is no such file."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


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
        except (ssl.SSLError, ValueError, OSError):
            raise SessionError("bad_tls_files", f"{ca} has no certificate in PEM form") from None
    if certificate is not None and key is not None:
        try:
            context.load_cert_chain(certificate, key, password=lambda: b"")
        except (ssl.SSLError, ValueError, OSError):
            raise SessionError(
                "bad_tls_files",
                f"{certificate} and {key} are no certificate and its key without password in PEM "
                "form, or do not fit each other",
            ) from None


def read_tls_files(*, ca: Path | None, certificate: Path | None, key: Path | None) -> Pem:
    """What the files hold, read at one moment. Raises as ``check_tls_files`` does."""
    files = (ca, certificate, key)
    for _ in range(_TRIES):
        before = _seen(files)
        check_tls_files(ca=ca, certificate=certificate, key=key)
        try:
            found = [None if path is None else path.read_bytes() for path in files]
        except OSError as error:
            raise SessionError("bad_tls_files", str(error)) from None
        if _seen(files) == before:
            return Pem(*found)
    raise SessionError("bad_tls_files", "the TLS files are being replaced just now; try again")


class WatchedPem:
    """PEM files that are replaced while they are in use; any thread may ask."""

    def __init__(self, *, ca: Path | None, certificate: Path | None, key: Path | None) -> None:
        """Raises as ``read_tls_files`` does."""
        self._ca, self._certificate, self._key = ca, certificate, key
        self._lock = threading.Lock()
        self._seen = _seen(self._files)
        self._pem = read_tls_files(ca=ca, certificate=certificate, key=key)
        self._problem: SessionError | None = None

    @property
    def pem(self) -> Pem:
        """What was good when it was last looked at."""
        return self._pem

    @property
    def problem(self) -> SessionError | None:
        """Why the files as they are now were not taken; None when they were."""
        return self._problem

    def refresh(self, *, anyway: bool = False) -> bool:
        """Look at the files; whether others than before are in use now.

        anyway: read them also where neither time nor size nor place has changed. Files that are
        missing, or do not fit each other, leave those before in use.
        """
        with self._lock:
            seen = _seen(self._files)
            if seen == self._seen and not anyway:
                self._problem = None
                return False
            try:
                pem = read_tls_files(ca=self._ca, certificate=self._certificate, key=self._key)
            except SessionError as error:
                self._problem = error
                return False
            self._seen, self._problem = seen, None
            changed = pem != self._pem
            self._pem = pem
            return changed

    @property
    def _files(self) -> tuple[Path | None, Path | None, Path | None]:
        return self._ca, self._certificate, self._key


def _seen(files: tuple[Path | None, ...]) -> _Seen:
    """By what one tells that a file is another: None for one that is not there."""

    def of(path: Path | None) -> tuple[int, int, int, int] | None:
        try:
            found = None if path is None else os.stat(path)
        except OSError:
            return None
        return found and (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    return tuple(of(path) for path in files)


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise SessionError("bad_tls_files", f"{path}: {error.strerror or error}") from None

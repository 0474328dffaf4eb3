"""The server's certificate: taken anew when its files are replaced, and a metric of when it ends.

New connections get the new certificate; those that are open go on. gRPC asks at every handshake,
and ``watch`` looks at the files between, so that log and metric tell what is served.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from cryptography import x509

from cloud_server.telemetry.metrics import Metrics
from shared.rpc.tls_files import Pem, WatchedPem

WATCH_S = 5.0
SOON = dt.timedelta(days=14)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; with ``client_ca`` only clients with a certificate of that CA are let in."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class ServedCertificate:
    """What a server shows to its callers, and the CA of theirs."""

    def __init__(self, files: TlsFiles, metrics: Metrics) -> None:
        """Raises SessionError ``bad_tls_files``."""
        self._files = WatchedPem(ca=files.client_ca, certificate=files.certificate, key=files.key)
        self._wants_certificates = files.client_ca is not None
        self._metrics = metrics
        self._given: Pem = self._files.pem
        self._complaint = ""
        self._tell("certificate_loaded")

    def credentials(self) -> grpc.ServerCredentials:
        """For a port of gRPC's; they follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(self._given),
            self._fetch,  # type: ignore[arg-type]  # None is allowed: see its documentation
            self._wants_certificates,
        )

    def refresh(self, *, anyway: bool = False) -> bool:
        """Look at the files; whether others are served from now on. Says so in the log, once; and
        once what is wrong with files that are not taken."""
        changed = self._files.refresh(anyway=anyway)
        problem = self._files.problem
        if problem is not None and problem.message != self._complaint:
            structlog.get_logger().warning("certificate_not_taken", **problem.to_dict())
        self._complaint = "" if problem is None else problem.message
        if changed:
            self._tell("certificate_replaced")
        return changed

    async def watch(self) -> None:
        """Look at the files for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            await asyncio.to_thread(self.refresh)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """For gRPC, at every handshake, in a thread of its own: None keeps what it has."""
        self.refresh()
        pem = self._files.pem
        if pem is self._given:
            return None
        self._given = pem
        return self._configuration(pem)

    def _configuration(self, pem: Pem) -> grpc.ServerCertificateConfiguration:
        assert pem.certificate is not None
        assert pem.key is not None
        return grpc.ssl_server_certificate_configuration(
            [(pem.key, pem.certificate)], root_certificates=pem.ca
        )

    def _tell(self, event: str) -> None:
        """In the log and as metrics: when the certificates end."""
        pem = self._files.pem
        ends: dict[str, dt.datetime] = {}
        if pem.certificate is not None:
            ends["server"] = min(_ends(pem.certificate))
        if pem.ca is not None:
            ends["client_ca"] = max(_ends(pem.ca))  # while one is good, clients can be let in
        for name, end in ends.items():
            self._metrics.certificate_expires_at.labels(name).set(end.timestamp())
        log = structlog.get_logger()
        log.info(event, **{f"{name}_expires_at": end.isoformat() for name, end in ends.items()})
        for name, end in ends.items():
            if end - dt.datetime.now(dt.UTC) < SOON:
                log.warning("certificate_ends_soon", certificate=name, expires_at=end.isoformat())


def _ends(pem: bytes) -> list[dt.datetime]:
    """When the certificates in PEM bytes end; those that cannot be read never do."""
    try:
        return [one.not_valid_after_utc for one in x509.load_pem_x509_certificates(pem)]
    except ValueError:
        return [dt.datetime.max.replace(tzinfo=dt.UTC)]

"""A certificate authority for trials: its key lies beside what it signs, so trust it with nothing.

The files are ``ca.pem`` and ``ca.key``, and ``server`` and ``client`` with ``.pem`` and ``.key``.
Keys are P-256 without a password, readable by their owner alone.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import FeatherwireError

DEFAULT_NAMES = ("localhost", "127.0.0.1", "::1")
_BACKDATED = dt.timedelta(hours=1)  # devices' clocks are not exact


def make_development_ca(
    folder: Path, *, names: Sequence[str] = DEFAULT_NAMES, days: int = 90
) -> list[Path]:
    """Write the six files; ``names`` are the server's DNS names and addresses.

    Raises ``FeatherwireError``: ``files_exist`` when one is there already, ``bad_option`` for a
    name that cannot be one, ``io_error``.
    """
    paths = [
        folder / f"{name}.{kind}" for name in ("ca", "server", "client") for kind in ("pem", "key")
    ]
    there = [path for path in paths if path.exists()]
    if there:
        raise FeatherwireError("files_exist", f"{there[0]} is there already; nothing was written")
    alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
    lasts = dt.timedelta(days=days)
    ca_key, server_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ca_name = _name("Featherwire development CA")
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = (
        _certificate(ca_name, ca_name, ca_key, lasts)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(ca_id, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id)
    signed = [(ca, ca_key)]
    for name, key, purpose in (
        ("server", server_key, ExtendedKeyUsageOID.SERVER_AUTH),
        ("client", client_key, ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        builder = (
            _certificate(_name(f"Featherwire development {name}"), ca_name, key, lasts)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(issuer, critical=False)
        )
        if name == "server":
            builder = builder.add_extension(alternatives, critical=False)
        signed.append((builder.sign(ca_key, hashes.SHA256()), key))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for (certificate, key), pem, key_file in zip(signed, paths[::2], paths[1::2], strict=True):
            _write(pem, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
            _write(key_file, _key_bytes(key), 0o600)
    except OSError as error:
        raise FeatherwireError("io_error", f"{folder}: {error.strerror or error}") from None
    return paths


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    lasts: dt.timedelta,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lasts)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise FeatherwireError("bad_option", f"{name!r} is no DNS name or address") from None


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)

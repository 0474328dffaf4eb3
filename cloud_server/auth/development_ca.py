"""A certificate authority for trials: its key lies beside what it signs, so trust it with nothing.

The files are ``ca.pem`` and ``ca.key``, and ``server`` and ``client`` with ``.pem`` and ``.key``.
Keys are P-256 without a password, readable by their owner alone. The authority lasts for ten years,
so that those who trust it need nothing new when what it has signed is renewed.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.cli import write_atomically
from shared.errors import FeatherwireError

DEFAULT_NAMES = ("localhost", "127.0.0.1", "::1")
_CA_LASTS = dt.timedelta(days=3653)
_BACKDATED = dt.timedelta(hours=1)  # devices' clocks are not exact
_PURPOSES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True, slots=True)
class Signed:
    """Files that were written, and when the certificates that were signed end.

    with_ca: they end with their authority, sooner than was asked for.
    """

    files: list[Path]
    ends: dt.datetime
    with_ca: bool = False


def make_development_ca(
    folder: Path, *, names: Sequence[str] = DEFAULT_NAMES, days: int = 90
) -> Signed:
    """Write the six files; ``names`` are the server's DNS names and addresses.

    ``days`` is how long the server's and the client's certificates last. Raises
    ``FeatherwireError``: ``files_exist`` when one is there already, ``bad_option`` for a name that
    cannot be one, ``io_error``.
    """
    paths = [
        folder / f"{name}.{kind}" for name in ("ca", "server", "client") for kind in ("pem", "key")
    ]
    there = [path for path in paths if path.exists()]
    if there:
        raise FeatherwireError(
            "files_exist",
            f"{there[0]} is there already; nothing was written (--renew signs new certificates "
            "with the CA that is there)",
        )
    alternatives = _alternatives(names)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("Featherwire development CA")
    now = dt.datetime.now(dt.UTC)
    ca = (
        _certificate(ca_name, ca_name, ca_key, now + _CA_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False)
        .sign(ca_key, hashes.SHA256())
    )
    authority = _Authority(ca, ca_key)
    ends = now + dt.timedelta(days=days)
    signed = [(ca, ca_key), *(authority.sign(name, alternatives, ends) for name in _PURPOSES)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for (certificate, key), pem, key_file in zip(signed, paths[::2], paths[1::2], strict=True):
            _write(pem, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
            _write(key_file, _key_bytes(key), 0o600)
    except OSError as error:
        raise FeatherwireError("io_error", f"{folder}: {error.strerror or error}") from None
    return Signed(paths, ends.replace(microsecond=0))


def renew_certificates(
    folder: Path, *, names: Sequence[str] | None = None, days: int = 90
) -> Signed:
    """Sign new certificates, with new keys, by the authority that lies in ``folder``.

    The server's are for ``names``; None: for those of its old certificate. The client's are renewed
    where they are there. Each file is replaced at once, a certificate and then its key; a server
    that runs takes them when both are there. They never outlast the authority. Raises
    ``FeatherwireError``: ``no_ca``, ``bad_ca`` (it cannot be read, or its key is not its own),
    ``ca_ended``, ``no_certificate`` (there is no old one to take names from),
    ``foreign_certificate`` (another authority has signed what is there: it is not replaced),
    ``bad_option`` for a name that cannot be one, ``io_error``.
    """
    authority = _Authority.read(folder)
    old = {name: _read_certificate(folder / f"{name}.pem") for name in _PURPOSES}
    foreign = [name for name, one in old.items() if one and not authority.has_signed(one)]
    if "server" in foreign:
        raise FeatherwireError(
            "foreign_certificate",
            f"{folder / 'server.pem'} is not of the CA in {folder / 'ca.pem'}, so it is not "
            "replaced; whoever has signed it renews it",
        )
    alternatives = (
        _old_alternatives(folder, old["server"]) if names is None else _alternatives(names)
    )
    now = dt.datetime.now(dt.UTC)
    ca_ends = authority.certificate.not_valid_after_utc
    if ca_ends <= now:
        raise FeatherwireError(
            "ca_ended",
            f"the CA in {folder / 'ca.pem'} ended on {ca_ends:%Y-%m-%d}, and what it signs is "
            "worth nothing; move the folder's ca, server and client files away, make new ones, "
            "and give the new ca.pem to everybody who trusts this one",
        )
    wanted = (now + dt.timedelta(days=days)).replace(microsecond=0)
    ends = min(wanted, ca_ends)
    files: list[Path] = []
    for name in _PURPOSES:
        if name == "client" and (old[name] is None or name in foreign):
            continue
        certificate, key = authority.sign(name, alternatives, ends)
        pem, key_file = folder / f"{name}.pem", folder / f"{name}.key"
        try:
            write_atomically(pem, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
            write_atomically(key_file, _key_bytes(key), mode=0o600)
        except OSError as error:
            raise FeatherwireError("io_error", f"{folder}: {error.strerror or error}") from None
        files += [pem, key_file]
    return Signed(files, ends, with_ca=ca_ends < wanted)


def needs_renewal(folder: Path, *, days: float) -> bool:
    """Whether the server's certificate ends within ``days``, or its key is not its own.

    Never where somebody has put files of his own: a certificate of another authority, an authority
    whose key is not there. And never where a new certificate would end no later, because the
    authority ends.
    """
    try:
        authority = _Authority.read(folder)
        server = _read_certificate(folder / "server.pem")
    except FeatherwireError:
        return False
    now = dt.datetime.now(dt.UTC)
    ca_ends = authority.certificate.not_valid_after_utc
    if server is None or not authority.has_signed(server) or ca_ends <= now:
        return False
    try:
        fits = _read_key(folder / "server.key").public_key() == server.public_key()
    except FeatherwireError:
        fits = False
    ends = server.not_valid_after_utc
    return not fits or (ends <= now + dt.timedelta(days=days) and ends < ca_ends)


# -- parts ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def read(cls, folder: Path) -> _Authority:
        certificate_file, key_file = folder / "ca.pem", folder / "ca.key"
        for path in (certificate_file, key_file):
            if not path.exists():
                raise FeatherwireError(
                    "no_ca", f"there is no {path}, so there is no CA that could sign anything"
                )
        certificate = _read_certificate(certificate_file)
        key = _read_key(key_file)
        if certificate is None or not _may_sign(certificate):
            raise FeatherwireError("bad_ca", f"{certificate_file} is no CA made by this command")
        if certificate.public_key() != key.public_key():
            raise FeatherwireError("bad_ca", f"{key_file} is not the key of {certificate_file}")
        return cls(certificate, key)

    def has_signed(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def sign(
        self, name: str, alternatives: x509.SubjectAlternativeName, ends: dt.datetime
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A new key for ``server`` or ``client``, and its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)
        subject = _name(f"Featherwire development {name}")
        builder = (
            _certificate(subject, self.certificate.subject, key, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_PURPOSES[name]]), critical=False)
            .add_extension(issuer, critical=False)
        )
        if name == "server":
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self.key, hashes.SHA256()), key


def _may_sign(certificate: x509.Certificate) -> bool:
    """Whether it is an authority's, with an id for what it signs to name."""
    try:
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return found.value.ca


def _read_certificate(path: Path) -> x509.Certificate | None:
    """The first of a PEM file; None where there is no file."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0]
    except FileNotFoundError:
        return None
    except ValueError:
        raise FeatherwireError("bad_ca", f"{path} has no certificate in PEM form") from None
    except OSError as error:
        raise FeatherwireError("io_error", f"{path}: {error.strerror or error}") from None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    except OSError as error:
        raise FeatherwireError("io_error", f"{path}: {error.strerror or error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FeatherwireError(
            "bad_ca", f"{path} is no key on an elliptic curve, in PEM form and without a password"
        )
    return key


def _old_alternatives(folder: Path, server: x509.Certificate | None) -> x509.SubjectAlternativeName:
    """The names that the server's certificate is for."""
    try:
        if server is not None:
            kind = x509.SubjectAlternativeName
            return server.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        pass
    raise FeatherwireError(
        "no_certificate",
        f"{folder / 'server.pem'} is not there, or names nobody: say with --name for whom the new "
        "certificate is",
    )


def _alternatives(names: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_alternative(name) for name in names])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    ends: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.now(dt.UTC) - _BACKDATED)
        .not_valid_after(ends)
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

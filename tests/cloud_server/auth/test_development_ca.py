"""A trial's certificates are renewed by the authority that is there, and nobody else's are."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner

from cloud_server.auth import development_ca
from cloud_server.auth.development_ca import (
    make_development_ca,
    needs_renewal,
    renew_certificates,
)
from cloud_server.cli import build_app
from shared.errors import FeatherwireError
from shared.rpc.tls_files import WatchedPem, check_tls_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files, of which server and client end within 20 days."""
    make_development_ca(tmp_path / "keys", names=["cloud", "10.0.0.3"], days=20)
    return tmp_path / "keys"


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())


def names(folder: Path) -> set[str]:
    found = certificate(folder, "server").extensions
    kind = x509.SubjectAlternativeName
    return {str(one.value) for one in found.get_extension_for_class(kind).value}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(folder: Path, before: dict[str, bytes]) -> set[str]:
    return {name for name, now in contents(folder).items() if before.get(name) != now}


def dev_ca(*words: str | Path, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(build_app(), ["auth", "dev-ca", *map(str, words), "--json"])
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lasts_days(one: x509.Certificate) -> float:
    return (one.not_valid_after_utc - dt.datetime.now(dt.UTC)) / dt.timedelta(days=1)


def test_renewed_certificates_are_of_the_same_authority_and_for_the_same_names(
    folder: Path,
) -> None:
    before = contents(folder)
    assert lasts_days(certificate(folder, "ca")) > 3650
    served = WatchedPem(
        ca=folder / "ca.pem", certificate=folder / "server.pem", key=folder / "server.key"
    )
    answer = dev_ca(folder, "--renew", "--days", "60")
    assert changed(folder, before) == {Path(file).name for file in answer["files"]}
    assert changed(folder, before) == {"server.pem", "server.key", "client.pem", "client.key"}
    assert names(folder) == {"cloud", "10.0.0.3"}
    for name in ("server", "client"):
        one = certificate(folder, name)
        one.verify_directly_issued_by(certificate(folder, "ca"))
        assert 59 < lasts_days(one) <= 60
        assert one.not_valid_after_utc == dt.datetime.fromisoformat(answer["ends"])
        key = folder / f"{name}.key"
        check_tls_files(ca=None, certificate=folder / f"{name}.pem", key=key)
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert served.refresh()  # a server that runs takes them
    dev_ca(folder, "--renew", "--name", "other")
    assert names(folder) == {"other"}


def test_what_is_there_is_renewed_only_when_it_ends_soon(folder: Path) -> None:
    before = contents(folder)
    assert dev_ca(folder, "--if-missing")["files"] == []
    assert dev_ca(folder, "--if-missing", "--renew-within", "10") == {"files": [], "ends": None}
    assert not changed(folder, before)
    soon = (folder, "--if-missing", "--renew-within", "30", "--name", "made-with")
    assert len(dev_ca(*soon)["files"]) == 4
    assert names(folder) == {"cloud", "10.0.0.3"}
    assert dev_ca(*soon)["files"] == []
    (folder / "server.key").write_bytes(before["server.key"])  # somebody stopped it half-way
    assert len(dev_ca(*soon)["files"]) == 4
    dev_ca(folder, "--renew-within", "30", code=2)
    dev_ca(folder, "--renew", "--if-missing", code=2)


def test_certificates_of_others_stay(folder: Path, tmp_path: Path) -> None:
    """Whoever has put his own in place of ours renews them himself."""
    make_development_ca(tmp_path / "others", days=5)
    for name in ("server.pem", "server.key"):
        shutil.copy(tmp_path / "others" / name, folder / name)
    before = contents(folder)
    assert not needs_renewal(folder, days=30)
    with pytest.raises(FeatherwireError) as caught:
        renew_certificates(folder)
    assert caught.value.reason == "foreign_certificate"
    shutil.copy(tmp_path / "others" / "ca.pem", folder / "ca.pem")  # and ca.key is still ours
    assert not needs_renewal(folder, days=30)
    assert changed(folder, before) == {"ca.pem"}


def _no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def _no_key(folder: Path) -> None:
    (folder / "ca.key").unlink()


def _wrong_key(folder: Path) -> None:
    shutil.copy(folder / "client.key", folder / "ca.key")


def _broken_key(folder: Path) -> None:
    (folder / "ca.key").write_text("no key")


def _no_authority(folder: Path) -> None:
    for kind in ("pem", "key"):
        shutil.copy(folder / f"client.{kind}", folder / f"ca.{kind}")


def _no_server(folder: Path) -> None:
    (folder / "server.pem").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_no_folder, "no_ca"),
        (_no_key, "no_ca"),
        (_wrong_key, "bad_ca"),
        (_broken_key, "bad_ca"),
        (_no_authority, "bad_ca"),
        (_no_server, "no_certificate"),
    ],
)
def test_what_cannot_be_renewed_is_said_and_nothing_is_written(
    folder: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(folder)
    before = contents(folder) if folder.exists() else {}
    with pytest.raises(FeatherwireError) as caught:
        renew_certificates(folder)
    assert caught.value.reason == reason
    assert not needs_renewal(folder, days=30)
    assert (contents(folder) if folder.exists() else {}) == before


def test_nothing_outlasts_the_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "keys"
    monkeypatch.setattr(development_ca, "_CA_LASTS", dt.timedelta(days=40))
    make_development_ca(folder, days=10)
    done = CliRunner().invoke(build_app(), ["auth", "dev-ca", str(folder), "--renew"])
    assert done.exit_code == 0
    assert "the CA itself ends on" in done.stderr
    ends = certificate(folder, "server").not_valid_after_utc
    assert ends == certificate(folder, "ca").not_valid_after_utc
    assert not needs_renewal(folder, days=50)  # a new one would not last longer

    gone = tmp_path / "gone"
    monkeypatch.setattr(development_ca, "_CA_LASTS", dt.timedelta(minutes=-5))
    make_development_ca(gone, days=10)
    assert not needs_renewal(gone, days=50)
    with pytest.raises(FeatherwireError) as caught:
        renew_certificates(gone)
    assert caught.value.reason == "ca_ended"

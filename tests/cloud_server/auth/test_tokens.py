"""Tokens at rest and on the command line."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from typer.testing import CliRunner

from cloud_server.auth import tokens
from cloud_server.auth.tokens import Role
from cloud_server.cli import build_app
from cloud_server.serve.settings import ServerSettings
from cloud_server.serve.startup import administered
from shared.errors import FeatherwireError, SessionError
from shared.rpc.access import read_token, token_of
from tests.support.access import stored_bytes


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    return ServerSettings.load(None, data=tmp_path / "data")


def found(settings: ServerSettings, text: str) -> tokens.Token | None:
    with administered(settings, "0") as connection:
        return tokens.find(connection, text)


def test_only_the_whole_token_is_known_and_only_its_hash_is_kept(settings: ServerSettings) -> None:
    with administered(settings, "0") as connection:
        text, made = tokens.create(connection, Role.DEVICE, device="cam-1", name="gate")
    assert found(settings, text) == made
    assert (made.role, made.device, made.complaint()) == (Role.DEVICE, "cam-1", None)
    secret = text.split("_", 2)[2]
    other = text[:-1] + ("A" if text[-1] != "A" else "B")
    for wrong in (other, text + "x", text[:-1], "", "fwt__", secret, text.upper(), "x" * 10_000):
        assert found(settings, wrong) is None
    assert settings.data is not None
    kept = stored_bytes(settings.data)
    assert made.id.encode() in kept
    assert secret.encode() not in kept


def test_no_two_tokens_are_alike(settings: ServerSettings) -> None:
    with administered(settings, "0") as connection:
        texts = {tokens.create(connection, Role.CONSUMER)[0] for _ in range(50)}
    assert len(texts) == 50
    assert min(map(len, texts)) == 64  # 4 + 16 + 1 + 43: 256 random bits in the last part


def test_a_token_ends_when_it_was_to_and_when_it_is_revoked(settings: ServerSettings) -> None:
    with administered(settings, "0") as connection:
        _, lasting = tokens.create(connection, Role.OPERATOR)
        _, short = tokens.create(connection, Role.OPERATOR, lasts_s=60)
        assert short.complaint() is None
        late = short.complaint(short.created_at + 60_000_000)
        assert late is not None
        assert late.reason == "token_expired"
        assert lasting.complaint(short.created_at + 10**16) is None
        first = tokens.revoke(connection, lasting.id)
        complaint = first.complaint()
        assert complaint is not None
        assert complaint.reason == "token_revoked"
        assert tokens.revoke(connection, lasting.id).revoked_at == first.revoked_at
        assert tokens.any_good(connection)
        tokens.revoke(connection, short.id)
        assert not tokens.any_good(connection)
        with pytest.raises(FeatherwireError) as caught:
            tokens.revoke(connection, "0" * 16)
        assert caught.value.reason == "unknown_token"


@pytest.mark.parametrize(
    ("role", "device", "reason"),
    [
        (Role.DEVICE, None, "bad_option"),
        (Role.OPERATOR, "cam", "bad_option"),
        (Role.DEVICE, "a b", "invalid_message"),
        (Role.DEVICE, "", "invalid_message"),
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(
    settings: ServerSettings, role: Role, device: str | None, reason: str
) -> None:
    def make(connection: Connection) -> None:
        tokens.create(connection, role, device=device)

    with administered(settings, "0") as connection:
        with pytest.raises(FeatherwireError) as caught:
            make(connection)
        assert tokens.every(connection) == []
    assert caught.value.reason == reason


def test_metadata_holds_one_bearer_token_or_none() -> None:
    assert token_of(["Bearer abc"]) == token_of(["bearer  abc "]) == "abc"
    for wrong in ([], ["abc"], ["Basic abc"], ["Bearer a", "Bearer b"], [b"Bearer a"]):
        with pytest.raises(SessionError) as caught:
            token_of(wrong)  # type: ignore[arg-type]
        assert caught.value.reason == "unauthenticated"


def test_a_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEATHERWIRE_TOKEN", raising=False)
    assert read_token() is None
    monkeypatch.setenv("FEATHERWIRE_TOKEN", " fwt_env ")
    assert read_token() == "fwt_env"
    (tmp_path / "token").write_text("fwt_file\n")
    assert read_token(tmp_path / "token") == "fwt_file"
    (tmp_path / "two").write_text("s3cret s3cret\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_text("\n")
    for name in ("two", "bytes", "empty", "gone"):
        with pytest.raises(SessionError) as caught:
            read_token(tmp_path / name)
        assert caught.value.reason == "bad_token_file"
        assert "s3cret" not in caught.value.message


# -- the command line ----------------------------------------------------------------------------


def invoke(*arguments: str, code: int = 0) -> Any:
    done = CliRunner().invoke(build_app(), ["auth", *arguments])
    assert done.exit_code == code, done.output
    return done


def test_tokens_are_made_listed_and_revoked(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"), "--json")
    made = json.loads(
        invoke("token", "create", "--role", "device", "--device", "cam-1", *data).stdout
    )
    file = tmp_path / "operator.token"
    invoke("token", "create", "--role", "operator", "--days", "1", "-o", str(file), *data)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = file.read_text()
    refused = CliRunner().invoke(
        build_app(), ["auth", "token", "create", "--role", "operator", "-o", str(file), *data]
    )
    assert (refused.exit_code, "file_exists" in refused.stderr) == (1, True)
    assert file.read_text() == kept
    again = invoke("token", "create", "--role", "operator", "-o", str(file), "--if-missing", *data)
    assert json.loads(again.stdout)["made"] is False
    invoke("token", "revoke", made["id"], *data)
    listing = invoke("token", "list", *data).stdout
    device, operator = json.loads(listing)["tokens"]
    assert (device["id"], device["device"], device["state"]) == (made["id"], "cam-1", "revoked")
    assert (operator["role"], operator["state"]) == ("operator", "good")
    assert operator["expires"] is not None
    assert made["token"].split("_", 2)[2] not in listing
    invoke("token", "revoke", "nonsense", *data, code=2)
    invoke("token", "create", "--role", "device", *data, code=2)
    mistyped = tmp_path / "dat"
    for command in (["list"], ["revoke", made["id"]]):
        done = CliRunner().invoke(build_app(), ["auth", "token", *command, "--data", str(mistyped)])
        assert (done.exit_code, "no_database" in done.stderr) == (3, True)
    assert not mistyped.exists()


def test_a_token_is_made_if_there_is_none(tmp_path: Path) -> None:
    """None that is good: one that was revoked lets nobody in."""
    create = ["token", "create", "--role", "operator", "--if-none", "--json"]
    data = ["--data", str(tmp_path / "data")]
    made = json.loads(invoke(*create, *data).stdout)
    assert json.loads(invoke(*create, *data).stdout)["made"] is False
    invoke("token", "revoke", made["id"], *data)
    assert json.loads(invoke(*create, *data).stdout)["id"] != made["id"]


def test_a_development_ca_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    made = json.loads(invoke("dev-ca", str(folder), "--name", "cloud", "--json").stdout)["files"]
    assert {Path(file).name for file in made} == {
        f"{name}.{kind}" for name in ("ca", "server", "client") for kind in ("pem", "key")
    }
    for file in map(Path, made):
        assert stat.S_IMODE(file.stat().st_mode) == (0o600 if file.suffix == ".key" else 0o644)
    before = (folder / "ca.pem").read_bytes()
    invoke("dev-ca", str(folder), "--if-missing")
    invoke("dev-ca", str(folder), code=1)
    assert (folder / "ca.pem").read_bytes() == before
    invoke("dev-ca", str(tmp_path / "other"), "--name", "ümlaut", code=2)
    assert not (tmp_path / "other").exists()

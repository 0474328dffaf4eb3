"""Cookies, tries, and where a console may listen."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from cloud_server.auth.tokens import Role
from cloud_server.console import sessions
from cloud_server.console.child import check_console, console_arguments
from cloud_server.console.context import ConsoleSettings
from cloud_server.console.sessions import FILE, Sessions, Tries, User, load_or_make
from cloud_server.serve.settings import ServerSettings
from shared.errors import FeatherwireError, StorageError
from shared.rpc.access import Access


def test_a_cookie_is_opened_by_the_key_that_sealed_it(tmp_path: Path) -> None:
    first, second = Sessions(load_or_make(tmp_path)), Sessions(load_or_make(tmp_path))
    user = User(Role.CONSUMER, "fw_1_secret")
    cookie = first.seal(user)
    assert "secret" not in cookie
    assert second.open(cookie) == user
    assert Sessions(Fernet(Fernet.generate_key())).open(cookie) is None
    assert first.open(cookie[:-2] + "AA") is None
    assert first.open("") is None
    assert "secret" not in repr(user)


def test_an_old_cookie_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Sessions(load_or_make(tmp_path))
    cookie = held.seal(User(Role.OPERATOR, "t"))
    monkeypatch.setattr(sessions, "LASTS_S", -1)
    assert held.open(cookie) is None


def test_the_key_is_its_users_alone(tmp_path: Path) -> None:
    load_or_make(tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "data" / FILE).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == [FILE]


def test_a_damaged_key_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("no key")
    with pytest.raises(StorageError, match="holds no key"):
        load_or_make(tmp_path)


def test_tries_are_few_from_one_address_and_not_many_from_all() -> None:
    tries = Tries()
    for _ in range(sessions.TRIES):
        assert tries.wait_s("a") == 0
        tries.failed("a")
    assert 0 < tries.wait_s("a") <= sessions.WITHIN_S
    assert tries.wait_s("b") == 0
    for number in range(sessions.TRIES_OF_ALL):
        tries.failed(f"peer-{number}")
    assert tries.wait_s("b") > 0


def settings(listen: str, tmp_path: Path, *, anywhere: bool = False) -> ConsoleSettings:
    """Of a console without a certificate."""
    return ConsoleSettings(listen, "127.0.0.1:1", Access(), tmp_path, anywhere=anywhere)


def test_tokens_do_not_cross_a_network_in_plain_text(tmp_path: Path) -> None:
    settings("127.0.0.1:0", tmp_path).check()
    settings("[::1]:8080", tmp_path).check()
    settings("0.0.0.0:80", tmp_path, anywhere=True).check()
    with pytest.raises(FeatherwireError, match="plain text") as error:
        settings("0.0.0.0:8080", tmp_path).check()
    assert error.value.reason == "insecure_listen"
    with pytest.raises(FeatherwireError, match="HOST:PORT"):
        settings("8080", tmp_path).check()


def test_serve_keeps_its_console_on_this_machine() -> None:
    with pytest.raises(FeatherwireError) as error:
        check_console(ServerSettings.load(None, insecure=True, console="0.0.0.0:8080"))
    assert error.value.reason == "insecure_listen"
    check_console(ServerSettings.load(None, insecure=True, console="127.0.0.1:8080"))


def test_the_console_reaches_a_server_that_listens_everywhere(tmp_path: Path) -> None:
    made = ServerSettings.load(None, insecure=True, console="127.0.0.1:0", data=tmp_path)
    arguments = console_arguments(made, "0.0.0.0:7570")
    assert arguments[arguments.index("--server") + 1] == "127.0.0.1:7570"
    assert "--tls-ca" not in arguments

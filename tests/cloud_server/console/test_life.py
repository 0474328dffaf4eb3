"""Consoles come and go, servers too, and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloud_server.auth.development_ca import make_development_ca
from shared.bundle import Bundle
from tests.support.console import console_process
from tests.support.servers import server_process

PLAIN = ("--bundles", "none", "--tasks", "none")


def health(url: str) -> dict[str, Any]:
    """What the console says of itself."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(f"{url}/healthz", timeout=10, context=context) as answer:
        return dict(json.load(answer))


def until(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    """Wait for something that comes to be true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be so"
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Whether a console is there."""
    try:
        return health(url) is not None
    except OSError:
        return False


def test_a_console_that_dies_is_started_again_and_ends_with_its_server(
    tiny_bundle: Bundle,
) -> None:
    arguments = ("--console", "127.0.0.1:0", "--bundle", tiny_bundle.origin, *PLAIN)
    with server_process(*arguments) as (process, ready):
        url = ready["console"]
        assert health(url) == {"streams": 0}
        (child,) = psutil.Process(process.pid).children()
        child.send_signal(signal.SIGKILL)
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        until(lambda: answers(url))
        (child,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        until(lambda: not answers(url))
        until(lambda: not child.is_running())


def test_a_drained_server_ends_its_console(tiny_bundle: Bundle) -> None:
    arguments = ("--console", "127.0.0.1:0", "--bundle", tiny_bundle.origin, *PLAIN)
    with server_process(*arguments) as (process, ready):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not answers(ready["console"])


def test_a_renewed_certificate_is_shown_to_browsers_and_trusted_by_the_console(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """`serve --console` has one certificate for devices and browsers, and its console trusts it."""
    for name in ("old", "new"):
        make_development_ca(tmp_path / name)
    keys, log = tmp_path / "keys", tmp_path / "log"
    keys.mkdir()

    def put(source: str) -> None:
        for name in ("server.pem", "server.key"):
            shutil.copy(tmp_path / source / name, keys / f".{name}")
            os.replace(keys / f".{name}", keys / name)

    def shown(address: str) -> str:
        host, _, port = address.removeprefix("https://").rpartition(":")
        return ssl.get_server_certificate((host, int(port)), timeout=10)

    put("old")
    arguments = (
        *("--console", "127.0.0.1:0", "--bundle", tiny_bundle.origin, *PLAIN),
        *("--tls-cert", str(keys / "server.pem"), "--tls-key", str(keys / "server.key")),
    )
    with server_process(*arguments, log=log) as (_process, ready):
        url = ready["console"]
        before = shown(url)
        put("new")
        until(lambda: shown(url) != before)
        assert shown(url) == shown(ready["listening"])
        until(lambda: "upstream_certificates_replaced" in log.read_text())
        assert answers(url)


def test_a_taken_port_is_said(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ("--console", listen, "--bundle", tiny_bundle.origin, *PLAIN)
        with server_process(*arguments, log=tmp_path / "log") as (process, ready):
            assert ready["error"]["reason"] == "cannot_listen"
            assert process.wait(30) == 1
    assert "the console cannot listen on" in (tmp_path / "log").read_text()


@pytest.fixture
def tabs(browser: Any) -> Iterator[Any]:
    """A window."""
    context = browser.new_context(viewport={"width": 800, "height": 600})
    yield context
    context.close()


def test_a_server_without_tokens_asks_for_none_and_is_waited_for(
    tabs: Any, start_server: Callable[..., Any], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    server = start_server()
    with console_process(server.address, tmp_path) as url:
        page = tabs.new_page()
        page.goto(url)
        page.get_by_text("connected", exact=True).wait_for()
        page.get_by_text("No device has been here yet.").wait_for()
        assert page.get_by_role("button", name="Log out").count() == 0
        server.stop()
        server.join()
        page.get_by_text("The server does not answer").wait_for()
        page.get_by_text("server away").wait_for()
        listen = ("--listen", server.address, "--bundle", tiny_bundle.origin, *PLAIN)
        with server_process(*listen):
            page.get_by_text("connected", exact=True).wait_for(timeout=60_000)
            page.get_by_text("The server does not answer").wait_for(state="detached")


def test_twenty_pages_share_streams_and_leave_none(
    tabs: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = start_server()
    with console_process(server.address, tmp_path) as url:
        pages = []
        for number in range(20):
            page = tabs.new_page()
            path = ("/", "/device/cam-1", "/results", "/device/cam-2")[number % 4]
            page.goto(url + path)
            page.get_by_text("connected", exact=True).wait_for()
            pages.append(page)
        until(lambda: health(url) == {"streams": 3})
        until(lambda: server.server._results.subscribers == 2)
        for page in pages:
            page.close()
        until(lambda: health(url) == {"streams": 0})
        until(lambda: server.server._results.subscribers == 0)
        assert server.server._fleet._watchers == 0

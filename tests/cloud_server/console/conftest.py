"""A real server with its console, a device that streams to it, and a real Chromium."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.auth.development_ca import make_development_ca
from cloud_server.auth.tokens import Role
from edge_client import EdgeSession
from tests.support.access import Keys
from tests.support.console import SHOWN, Running
from tests.support.servers import server_process

pytest.importorskip("nicegui", reason="the extra `console` is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`serve --console` with the packaged picture bundle and real tasks."""
    folder = tmp_path_factory.mktemp("console")
    make_development_ca(folder / "keys")
    keys = Keys(folder / "keys", folder / "data")
    operator = keys.token(Role.OPERATOR, name="lena")
    consumer = keys.token(Role.CONSUMER, name="reader")
    device = keys.token(Role.DEVICE, device="cam-1", labels={"site": "north"})
    arguments = (
        *("--console", "127.0.0.1:0", "--bundles", "detect", "--tasks"),
        "detection,segmentation,landmarks",
        *("--tls-cert", str(keys.folder / "server.pem"), "--tls-key"),
        str(keys.folder / "server.key"),
    )
    environment = {"FEATHERWIRE_DATA": str(keys.data)}
    log = folder / "server.log"
    with server_process(*arguments, log=log, environment=environment, insecure=False) as started:
        process, ready = started
        yield Running(
            ready["listening"], ready["console"], keys, operator, consumer, device, process
        )
    text = log.read_text()
    assert not any(token in text for token in (operator, consumer, device)), "a token was logged"
    assert '"level": "error"' not in text, text


@pytest.fixture(scope="package")
def stored(running: Running, photos: dict[str, NDArray[np.uint8]]) -> Running:
    """A few frames of two devices are in the log."""
    other = running.keys.token(Role.DEVICE, device="cam-2", labels={"site": "south"})
    for device, token in (("cam-2", other), ("cam-1", running.device_token)):
        with EdgeSession(
            running.server, device=device, access=running.keys.access(token)
        ) as session:
            for name in SHOWN:
                session.send(
                    photos[name], tasks=["detection", "segmentation", "landmarks"], state=0
                )
    return running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless. While it is open no other event loop runs in this thread."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, running: Running) -> Iterator[Callable[..., Any]]:
    """``visit(path, role)``: a page in a browser of its own, logged in as that role."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def open_page(
        path: str = "/",
        role: str | None = "operator",
        *,
        width: int = 1280,
        height: int = 800,
        scheme: str = "light",
        **more: Any,
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            ignore_https_errors=True,
            **more,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: _only_ours(request.url, running.url, complaints))
        page.goto(running.url + path)
        if role is not None:
            page.get_by_label("Token").fill(getattr(running, role))
            page.get_by_role("button", name="Log in").click()
            page.get_by_text("connected", exact=True).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, complaints


def _only_ours(url: str, ours: str, complaints: list[str]) -> None:
    """The console works where there is no internet."""
    if not url.startswith((ours, "data:", "blob:")):
        complaints.append(f"the page asked for {url}")


@pytest.fixture(scope="session")
def pictures_folder() -> Path:
    """Where pages are pictured: docs/console when ``FEATHERWIRE_SCREENSHOTS`` is set."""
    if os.environ.get("FEATHERWIRE_SCREENSHOTS"):
        return Path(__file__).resolve().parents[3] / "docs" / "console"
    return Path(tempfile.mkdtemp(prefix="featherwire-console-"))

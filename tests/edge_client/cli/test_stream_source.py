"""`stream` and its camera: what it shows and stores of an address, and how it ends."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.http_server import http_server
from tests.support.motion_jpeg import camera

NOBODY = ("--server", "127.0.0.1:1", "--timeout", "1", "--grace", "0", "--json")


def test_a_cameras_first_answer_is_no_wrong_usage(tmp_path: Path) -> None:
    """After exit status 2 a service is not started again, and a camera that starts shows pages."""

    def page(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        request.end_headers()

    with http_server(page) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        done = run("edge_client", "stream", url, *NOBODY, "--spool", str(tmp_path / "spool"))
    assert done.returncode == 1
    assert "[bad_source]" in done.stderr


@pytest.mark.parametrize("password", ["s3cret", "s3c%23ret", "s3c@ret", "s3c:ret"])
def test_a_password_is_shown_and_stored_nowhere(tmp_path: Path, password: str) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Authorization") is None:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="x"')
            request.end_headers()
        else:
            camera(request, pictures=3, pause_s=0.2)

    spool = tmp_path / "spool"
    with http_server(answer) as server:
        place = f"127.0.0.1:{server.server_address[1]}/live"
        done = run(
            "edge_client", "stream", *NOBODY, "--spool", str(spool), "--source-patience", "0",
            "--status-every", "0.1",
            FEATHERWIRE_SOURCE=f"http://adm1n:{password}@{place}?token=t0ken",
        )  # fmt: skip
    end = json.loads(done.stdout.splitlines()[-1])
    assert end["source"]["name"] == f"http://{place}"
    assert end["queue"]["frames"] >= 1
    stored = b"".join(file.read_bytes() for file in spool.rglob("*") if file.is_file())
    assert f"{place}#1".encode() in stored
    for secret in ("s3c", "adm1n", "t0ken"):
        assert secret not in done.stdout + done.stderr
        assert secret.encode() not in stored

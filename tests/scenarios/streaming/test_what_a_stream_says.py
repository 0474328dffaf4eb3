"""A stream says why it is not connected, at once and once, and what an operator has set."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_server.auth.development_ca import make_development_ca
from cloud_server.auth.tokens import Role
from cloud_server.fleet.client import FleetClient
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import fleet_pb2
from shared.wire.commands import change_rate
from tests.support.access import Keys
from tests.support.fleet import named
from tests.support.http_server import http_server
from tests.support.motion_jpeg import camera
from tests.support.proxy import Proxy
from tests.support.servers import FixedTask, ServerThread
from tests.support.speaking_edge import speaking
from tests.support.streaming_edge import EDGE, jpeg, run

Start = Callable[..., ServerThread]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(10))
    return path


def test_each_reason_is_said_once_and_so_is_the_way_back(
    start_server: Start, tiny_bundle: Bundle, photo: Path, tmp_path: Path
) -> None:
    with Proxy("127.0.0.1:1") as proxy:  # takes connections, and closes them
        words = (photo, "--loop", "--fps", 5, "--bundle", tiny_bundle.origin, "--timeout", 1,
                 "--server", proxy.address, "--to", tmp_path / "out.csv")  # fmt: skip
        with speaking(*words) as stream:
            stream.until_said("not connected: ")
            assert stream.lines[0] == (
                f"{photo} to {proxy.address}; frames that no server has taken when this ends are "
                "lost (no --spool)"
            )
            assert stream.lines[1].endswith("[unreachable]")
            proxy.target = start_server({"one": lambda: FixedTask("one")}).address
            stream.until_said(f"connected to {proxy.address}")
            proxy.cut()
            stream.until_said("not connected: ", times=2)
            stream.until_said(f"connected to {proxy.address}", times=2)
            assert stream.end() == 0
    assert len(set(stream.lines)) >= 4
    assert stream.lines[-1].startswith("ended: ")
    said: set[str] = set()
    for line in stream.lines:
        # On a busy machine there may be more than one: a try can take longer than it has.
        if line.startswith("connected to "):
            said.clear()
        assert line not in said, stream.lines
        if line.startswith("not connected: "):
            said.add(line)


def test_what_is_lost_for_want_of_a_server_was_said_before(
    tiny_bundle: Bundle, photo: Path
) -> None:
    words = ("--bundle", tiny_bundle.origin, "--timeout", 0.5, "--server", "127.0.0.1:1")
    done = run(EDGE, "stream", photo, *words, "--quiet")
    assert done.returncode == 4
    first, last = done.stderr.splitlines()
    assert first.startswith("not connected: no server answered at 127.0.0.1:1 [unreachable]; ")
    assert "are lost" in first
    assert last == "error: 1 frame is lost: no server took it, and no --spool [frames_lost]"


def test_tls_and_tokens_are_named_for_what_they_are(
    start_server: Start, keys: Keys, tmp_path: Path, photo: Path
) -> None:
    make_development_ca(tmp_path / "others")
    (tmp_path / "token").write_text(keys.token(Role.DEVICE, device="cam"))
    (tmp_path / "forged").write_text("fw_nobody")
    server, plain = start_server(**keys.server), start_server()
    ca, other = keys.folder / "ca.pem", tmp_path / "others" / "ca.pem"
    cases = [
        (server, (), "it may want TLS"),
        (plain, ("--tls-ca", ca), "it speaks plain text"),
        (server, ("--tls-ca", other, "--token-file", tmp_path / "token"), "certificate is refused"),
        (server, ("--tls-ca", ca, "--token-file", tmp_path / "forged"), "[unauthenticated]"),
        (server, ("--tls-ca", ca, "--token-file", tmp_path / "token", "--device", "x"),
         "[wrong_device]"),
    ]  # fmt: skip
    for where, words, said in cases:
        done = run(EDGE, "stream", photo, "--server", where.address, "--timeout", 0.5, *words)
        assert done.returncode == 4, done.stderr
        assert done.stderr.count(said) == 1, done.stderr


def test_an_operators_rate_that_overrides_what_was_typed_is_said(
    start_server: Start, tiny_bundle: Bundle, photo: Path, tmp_path: Path
) -> None:
    server = start_server({"one": lambda: FixedTask("one")})
    words = (photo, "--loop", "--fps", 20, "--state", 1, "--server", server.address, "--bundle",
             tiny_bundle.origin, "--spool", tmp_path / "spool", "--device", "cam")  # fmt: skip
    set_to = "an operator has set the rate of this device: state 3, 2 frames/s"
    with speaking(*words) as stream, FleetClient(server.address) as operator:
        stream.until_said("connected to ")
        policy = fleet_pb2.RatePolicy(state=3, max_frames_per_second=2)
        operator.send(named("cam"), change_rate(policy))
        stream.until_said(set_to)
        assert "--state 1 and --fps 20 do not count" in stream.lines[-1]
        assert stream.end() == 0
    with speaking(*words, "--quiet") as stream, FleetClient(server.address) as operator:
        stream.until_said(set_to)  # it was kept
        operator.send(named("cam"), change_rate(clear=["state"]))
        assert stream.end() == 0


def test_a_state_that_the_bundle_lacks_is_said_once(
    start_server: Start, tiny_bundle: Bundle, photo: Path
) -> None:
    server = start_server({"one": lambda: FixedTask("one")})
    words = (photo, "--loop", "--server", server.address, "--bundle", tiny_bundle.origin)
    done = run(EDGE, "stream", *words, "--state", 99)
    assert done.returncode == 2
    assert done.stderr.count("there is no state 99") == 1


def test_a_spool_that_is_empty_says_so_and_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    done = run(EDGE, "flush", "--spool", tmp_path / "spool", "--server", "127.0.0.1:1")
    assert (done.returncode, done.stderr) == (
        0, f"{tmp_path / 'spool'} is empty: there is nothing to deliver\n",
    )  # fmt: skip


def test_a_bundle_of_an_unknown_codec_is_no_photos_fault(tmp_path: Path, photo: Path) -> None:
    packaged = Path(Bundle.load().origin)
    strange = tmp_path / "strange"
    strange.mkdir()
    for file in packaged.iterdir():
        if file.is_file() and file.name != "manifest.json":
            (strange / file.name).symlink_to(file)
    manifest = (packaged / "manifest.json").read_text()
    codec = Bundle.load().manifest.codec
    (strange / "manifest.json").write_text(manifest.replace(f'"{codec}"', '"of-tomorrow"'))
    to = ("--server", "127.0.0.1:1", "--timeout", 0.5, "--bundle", strange)
    runs: list[subprocess.CompletedProcess[str]] = [
        run(EDGE, "stream", photo, *to),
        run(EDGE, "send", photo, *to, "--spool", tmp_path / "spool"),
        run(EDGE, "encode", photo, "-o", tmp_path / "out", "--bundle", strange),
    ]
    for done in runs:
        assert done.returncode == 3, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith("error: the bundle is for codec 'of-tomorrow'")
        assert last.endswith("[unknown_codec]")


def test_a_source_that_goes_away_and_comes_back_is_said_once_each(
    start_server: Start, tiny_bundle: Bundle
) -> None:
    server = start_server({"one": lambda: FixedTask("one")})
    with http_server(lambda request: camera(request, pictures=10_000)) as http:
        address = f"127.0.0.1:{http.server_address[1]}"
        with Proxy("127.0.0.1:1") as proxy:
            words = (f"http://{proxy.address}/", "--bundle", tiny_bundle.origin, "--server",
                     server.address, "--source-timeout", 5)  # fmt: skip
            with speaking(*words) as stream:
                stream.until_said("the source is away: ")
                proxy.target = address
                stream.until_said("the source is back")
                assert stream.end() == 0
    # How a connection that nobody answers ends differs from one to the next: each way is said once.
    away = [line for line in stream.lines if "the source is away: " in line]
    assert len(away) == len(set(away)), stream.lines
    assert stream.count("the source is back") == 1, stream.lines

"""Certificates are replaced under a server that runs: callers see the new ones, none is cut."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from numpy.typing import NDArray

from cloud_server.auth.development_ca import make_development_ca
from cloud_server.serve.certificates import ServedCertificate, TlsFiles
from cloud_server.telemetry.metrics import Metrics
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from edge_client.spool import Spool
from shared.bundle import Bundle
from shared.errors import SessionError
from shared.rpc.access import Access
from shared.rpc.tls_files import WatchedPem, read_tls_files
from tests.support.proxy import Proxy
from tests.support.servers import ServerThread, server_process

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with ca.pem, server.pem, server.key of two authorities that know nothing of each
    other."""
    folder = tmp_path_factory.mktemp("authorities")
    for name, days in (("old", 2), ("new", 90)):
        make_development_ca(folder / name, days=days)
    return folder / "old", folder / "new"


def put(source: Path, folder: Path, *names: str) -> None:
    """Replace files of ``folder`` as certbot does: each at once, one after the other."""
    folder.mkdir(exist_ok=True)
    for name in names or ("server.pem", "server.key"):
        shutil.copy(source / name, folder / f".{name}")
        os.replace(folder / f".{name}", folder / name)


def served(address: str) -> int:
    """The serial number of the certificate that a new connection gets."""
    host, _, port = address.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def serial(folder: Path) -> int:
    return x509.load_pem_x509_certificate((folder / "server.pem").read_bytes()).serial_number


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def metric(metrics: Metrics, certificate: str) -> float:
    name = "featherwire_certificate_expires_at"
    found = metrics.registry.get_sample_value(name, {"certificate": certificate})
    assert found is not None
    return found


# -- files ----------------------------------------------------------------------------------------


def test_files_that_do_not_fit_yet_leave_the_old_ones_in_use(
    authorities: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = authorities
    put(old, tmp_path)
    files = WatchedPem(ca=None, certificate=tmp_path / "server.pem", key=tmp_path / "server.key")
    first = files.pem
    assert not files.refresh()
    put(new, tmp_path, "server.pem")  # its key is still to come
    assert not files.refresh()
    assert files.problem is not None
    assert files.pem is first
    (tmp_path / "server.key").unlink()
    assert not files.refresh()
    put(new, tmp_path, "server.key")
    assert files.refresh()
    assert files.problem is None
    assert files.pem.certificate == (new / "server.pem").read_bytes()
    assert not files.refresh()


def test_a_link_that_is_turned_is_a_replaced_file(
    authorities: tuple[Path, Path], tmp_path: Path
) -> None:
    """Kubernetes mounts a Secret as links through one folder, which it turns to the new one."""
    old, new = authorities
    (tmp_path / "..data").symlink_to(old)
    for name in ("server.pem", "server.key", "ca.pem"):
        (tmp_path / name).symlink_to(Path("..data") / name)
    files = WatchedPem(
        ca=tmp_path / "ca.pem", certificate=tmp_path / "server.pem", key=tmp_path / "server.key"
    )
    (tmp_path / "..next").symlink_to(new)
    os.replace(tmp_path / "..next", tmp_path / "..data")
    assert files.refresh()
    assert files.pem.ca == (new / "ca.pem").read_bytes()


def test_bytes_that_change_in_place_are_read_when_asked_for(
    authorities: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = authorities
    ca = tmp_path / "ca.pem"
    ca.write_bytes((old / "ca.pem").read_bytes())
    files = WatchedPem(ca=ca, certificate=None, key=None)
    seen = ca.stat()
    text = (new / "ca.pem").read_bytes()
    ca.write_bytes(text[: seen.st_size].ljust(seen.st_size, b"\n"))
    os.utime(ca, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    if len(text) <= seen.st_size:
        assert not files.refresh()
        assert files.refresh(anyway=True)


def test_a_bad_file_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(SessionError) as caught:
        read_tls_files(ca=tmp_path / "ca.pem", certificate=None, key=None)
    assert caught.value.reason == "bad_tls_files"


def test_the_metric_says_when_what_is_served_ends(
    authorities: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = authorities
    put(old, tmp_path, "server.pem", "server.key", "ca.pem")
    metrics = Metrics()
    certificate = ServedCertificate(
        TlsFiles(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem"), metrics
    )
    before = metric(metrics, "server")
    end = x509.load_pem_x509_certificate((old / "server.pem").read_bytes()).not_valid_after_utc
    assert before == end.timestamp()
    put(new, tmp_path, "server.pem", "server.key", "ca.pem")
    assert certificate.refresh()
    assert metric(metrics, "server") > before + 80 * 86400
    # Of two CAs the later counts: callers of both are let in, and those of the new one for longer.
    both = (old / "ca.pem").read_bytes() + (new / "ca.pem").read_bytes()
    (tmp_path / "ca.pem").write_bytes(both)
    assert certificate.refresh()
    assert metric(metrics, "client_ca") > before + 80 * 86400


# -- a server that runs ---------------------------------------------------------------------------


def test_new_callers_get_the_new_certificate_and_open_streams_go_on(
    start_server: Callable[..., ServerThread],
    authorities: tuple[Path, Path],
    tmp_path: Path,
    encoder: EdgeEncoder,
    image: NDArray[np.uint8],
) -> None:
    old, new = authorities
    put(old, tmp_path)
    server = start_server(tls_certificate=tmp_path / "server.pem", tls_key=tmp_path / "server.key")
    access = Access(ca=old / "ca.pem")
    with EdgeSession(server.address, encoder=encoder, access=access) as session:
        assert session.send(image, state=4).analysis is not None
        assert served(server.address) == serial(old)
        put(new, tmp_path, "server.pem")
        assert served(server.address) == serial(old)
        put(new, tmp_path, "server.key")
        assert served(server.address) == serial(new)
        assert session.send(image, state=4).analysis is not None
    with EdgeSession(server.address, encoder=encoder, access=Access(ca=new / "ca.pem")) as renewed:
        assert renewed.send(image, state=4).analysis is not None


def test_a_device_with_a_spool_reads_its_files_again_when_it_connects_again(
    start_server: Callable[..., ServerThread],
    authorities: tuple[Path, Path],
    tmp_path: Path,
    encoder: EdgeEncoder,
    image: NDArray[np.uint8],
) -> None:
    """The server comes back with another CA while the device's file is the old one, then empty,
    then the new one: it goes on by itself."""
    old, new = authorities
    ca = tmp_path / "ca.pem"
    shutil.copy(old / "ca.pem", ca)

    def start(folder: Path) -> ServerThread:
        return start_server(tls_certificate=folder / "server.pem", tls_key=folder / "server.key")

    server, done = start(old), 0
    with (
        Spool.open(tmp_path / "spool") as spool,
        Proxy(server.address) as proxy,
        EdgeSession(
            proxy.address, encoder=encoder, access=Access(ca=ca), spool=spool, connect_timeout_s=5
        ) as session,
    ):
        for result in session.stream([image] * 12, state=4):
            assert result.error is None
            done += 1
            if done == 3:
                ca.write_text("being written")
                proxy.target = start(new).address
                server.stop()
                threading.Timer(1.0, shutil.copy, (new / "ca.pem", ca)).start()
    assert done == 12


def test_a_hangup_renews_and_does_not_end_the_server(
    authorities: tuple[Path, Path], tmp_path: Path, tiny_bundle: Bundle
) -> None:
    old, new = authorities
    put(old, tmp_path)
    config, log = tmp_path / "cloud.yaml", tmp_path / "server.log"
    config.write_text("credits: 4\n")
    arguments = (
        *("--config", str(config), "--bundle", str(tiny_bundle.origin), "--bundles", "none"),
        *("--tasks", "none", "--tls-cert", str(tmp_path / "server.pem")),
        *("--tls-key", str(tmp_path / "server.key")),
    )
    with server_process(*arguments, log=log) as (process, ready):
        put(new, tmp_path)
        config.write_text("credits: 5\nlog_level: warning\n")
        process.send_signal(signal.SIGHUP)
        until(lambda: "certificate_replaced" in log.read_text())
        assert served(ready["listening"]) == serial(new)
        config.write_text("credits: many\n")
        process.send_signal(signal.SIGHUP)
        until(lambda: "settings_not_taken" in log.read_text())
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0

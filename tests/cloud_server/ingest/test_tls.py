"""TLS and mutual TLS with certificates made for the test by the openssl program."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from shared.errors import SessionError
from shared.rpc.access import Access
from tests.support.servers import ServerThread


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and server.pem and client.pem that it signed, each with its .key."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(folder, *new, "-x509", "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key",
             "-out", "ca.pem")  # fmt: skip
    for name in ("server", "client"):
        _openssl(folder, *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                 "-out", f"{name}.csr")  # fmt: skip
        _openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey",
                 "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san",
                 "-out", f"{name}.pem")  # fmt: skip
    return folder


def test_a_client_with_the_right_ca_is_served_and_others_are_not(
    start_server: Callable[..., ServerThread],
    certificates: Path,
    encoder: EdgeEncoder,
    image: NDArray[np.uint8],
) -> None:
    server = start_server(
        tls_certificate=certificates / "server.pem", tls_key=certificates / "server.key"
    )
    access = Access(ca=certificates / "ca.pem")
    with EdgeSession(server.address, encoder=encoder, access=access) as session:
        assert session.send(image, state=4).analysis is not None
    for wrong in (None, Access(tls=True)):
        with (
            pytest.raises(SessionError) as caught,
            EdgeSession(server.address, encoder=encoder, access=wrong, connect_timeout_s=1),
        ):
            pass
        assert caught.value.reason == "unreachable"


def test_a_server_with_a_client_ca_wants_a_certificate(
    start_server: Callable[..., ServerThread],
    certificates: Path,
    encoder: EdgeEncoder,
    image: NDArray[np.uint8],
) -> None:
    server = start_server(
        tls_certificate=certificates / "server.pem",
        tls_key=certificates / "server.key",
        tls_client_ca=certificates / "ca.pem",
    )
    mutual = Access(
        ca=certificates / "ca.pem",
        certificate=certificates / "client.pem",
        key=certificates / "client.key",
    )
    with EdgeSession(server.address, encoder=encoder, access=mutual) as session:
        assert session.send(image, state=4).analysis is not None
    anonymous = Access(ca=certificates / "ca.pem")
    with (
        pytest.raises(SessionError, match="it wants a certificate of this client's"),
        EdgeSession(server.address, encoder=encoder, access=anonymous, connect_timeout_s=1),
    ):
        pass


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    access = Access(ca=tmp_path / "gone.pem")
    with pytest.raises(SessionError) as caught, EdgeSession("127.0.0.1:1", access=access):
        pass
    assert caught.value.reason == "bad_tls_files"

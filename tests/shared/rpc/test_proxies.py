"""Proxies of the environment: who is asked for a server, who never is, and what an error says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from shared.errors import SessionError
from shared.rpc.channel import open_channel, wait_until_ready
from shared.rpc.proxies import proxy_for, reach_loopback_directly

ROOT = Path(__file__).resolve().parents[3]
PROXY = {"http_proxy": "http://anna:secret@proxy.example:3128"}


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.9.8.7", "::1", "localhost", "LocalHost.", "db.localhost", "0.0.0.0"],
)
def test_this_machine_is_reached_directly(host: str) -> None:
    assert proxy_for(host, 7570, PROXY) is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("", "cloud.example", False),
        ("*", "cloud.example", True),
        ("example", "cloud.example", True),
        (".example", "cloud.example", True),
        ("*.example", "cloud.example", True),
        ("CLOUD.example", "cloud.Example.", True),
        ("ample", "cloud.example", False),
        ("other.org, cloud.example", "cloud.example", True),
        ("other.org cloud.example", "cloud.example", True),
        ("cloud.example:7570", "cloud.example", True),
        ("cloud.example:443", "cloud.example", False),
        ("10.0.0.0/8", "10.2.3.4", True),
        ("10.0.0.0/8", "11.2.3.4", False),
        ("10.2.3.4", "10.2.3.4", True),
        ("10.2.3.4:7570", "10.2.3.4", True),
        ("fd00::/8", "fd00::12", True),
        ("[fd00::12]:7570", "fd00::12", True),
        ("fd00::12", "fd00::12", True),
        ("10.0.0.0/8", "cloud.example", False),
        (",,  ,", "cloud.example", False),
        (".", "cloud.example", False),
    ],
)
def test_no_proxy_names_hosts_domains_networks_and_ports(
    no_proxy: str, host: str, direct: bool
) -> None:
    for variable in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        found = proxy_for(host, 7570, {**PROXY, variable: no_proxy})
        assert (found is None) == direct, variable


def test_which_variable_names_the_proxy() -> None:
    assert proxy_for("cloud.example", 1, {}) is None
    assert proxy_for("cloud.example", 1, {"http_proxy": " "}) is None
    both = {"https_proxy": "proxy:1", "http_proxy": "http://other:2"}
    found = proxy_for("cloud.example", 1, both)
    assert found is not None
    assert (found.variable, found.url) == ("https_proxy", "http://proxy:1")
    # gRPC speaks to no other kind; it goes by itself then.
    assert proxy_for("cloud.example", 1, {"http_proxy": "socks5://proxy:1"}) is None


def test_other_libraries_are_told_by_the_environment() -> None:
    variables = {"HTTP_PROXY": "http://proxy:1", "NO_PROXY": "example.org"}
    reach_loopback_directly(variables)
    assert variables["no_proxy"] == variables["NO_PROXY"]
    assert variables["no_proxy"].split(",") == ["example.org", "localhost", "127.0.0.1", "::1"]
    again = dict(variables)
    reach_loopback_directly(again)
    assert again == variables
    without: dict[str, str] = {"PATH": "/bin"}
    reach_loopback_directly(without)
    assert without == {"PATH": "/bin"}


# -- with a real proxy ----------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[int]:
    """A gRPC server that says that it serves; its port."""
    served = grpc.server(futures.ThreadPoolExecutor(2))
    service = health.HealthServicer()
    service.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(service, served)
    port = served.add_insecure_port("127.0.0.1:0")
    served.start()
    yield port
    served.stop(0)


class ConnectProxy:
    """An HTTP proxy that tunnels whatever name it is asked for to one local port."""

    def __init__(self, target: int) -> None:
        self.asked: list[str] = []
        self._target = target
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=(caller,), daemon=True).start()

    def _tunnel(self, caller: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += caller.recv(4096)
        self.asked.append(head.split()[1].decode())
        callee = socket.create_connection(("127.0.0.1", self._target))
        caller.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        back = threading.Thread(target=_copy, args=(callee, caller), daemon=True)
        back.start()
        _copy(caller, callee)

    def close(self) -> None:
        self._socket.close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass


def serves(address: str) -> bool:
    with open_channel(address) as channel:
        wait_until_ready(channel, address, 20)
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture
def proxy(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectProxy]:
    """One that all variables name."""
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    tunnel = ConnectProxy(server)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{tunnel.port}")
    yield tunnel
    tunnel.close()


def test_other_machines_are_asked_of_the_proxy_and_this_one_is_not(
    server: int, proxy: ConnectProxy
) -> None:
    assert serves(f"127.0.0.1:{server}")
    assert serves(f"localhost:{server}")
    assert proxy.asked == []
    assert serves("cloud.example:7570")
    assert proxy.asked == ["cloud.example:7570"]


def test_a_proxy_that_is_not_there_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://anna:se@cret@127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with open_channel("cloud.example:7570") as channel, pytest.raises(SessionError) as caught:
        wait_until_ready(channel, "cloud.example:7570", 0.5)
    assert caught.value.reason == "unreachable"
    for part in ("http://127.0.0.1:9", "http_proxy", "no_proxy", "cloud.example"):
        assert part in caught.value.message
    assert "cret" not in caught.value.message


def test_the_health_check_of_a_container_with_a_proxy(server: int) -> None:
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "healthcheck.py"), f"127.0.0.1:{server}"],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

"""deploy/: the server's settings, systemd units and health checks.

Images, docker-compose.yml, what watches the server, and the chart have tests of their own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from concurrent import futures
from configparser import ConfigParser
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.support.composed import ROOT, read

DEPLOY = ROOT / "deploy"


def explains(program: str, sub: str) -> bool:
    """Whether our command ``program`` has a sub-command ``sub`` with a --help."""
    package = program.replace("featherwire-edge", "edge_client").replace(
        "featherwire-cloud", "cloud_server"
    )
    run_it = f"from {package}.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", run_it, sub, "--help"], capture_output=True)
    return done.returncode == 0


def unit(name: str) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys are case-sensitive
    parser.read_string((DEPLOY / name).read_text())
    return parser


# --- our commands ----------------------------------------------------------------------------


def commands_used() -> list[tuple[str, str, str]]:
    """(where, program, sub-command) for each of our commands that deploy/ runs."""
    used = []
    texts = {path.name: path.read_text() for path in sorted(DEPLOY.iterdir()) if path.is_file()}
    for where, text in texts.items():
        for program, sub in re.findall(r"(featherwire-(?:edge|cloud)) ([a-z]+)(?= |$)", text):
            if f"/bin/{program} {sub}" in text:
                used.append((where, program, sub))
    return used


def test_commands_exist() -> None:
    assert not explains("featherwire-cloud", "no-such-command")
    used = commands_used()
    assert {sub for _, _, sub in used} == {"models", "serve", "stream"}
    for where, program, sub in used:
        assert explains(program, sub), (where, program, sub)


def test_example_configuration_is_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every key of deploy/cloud.yaml is a setting, with a value that it accepts."""
    from cloud_server.auth.development_ca import make_development_ca
    from cloud_server.serve.settings import ServerSettings
    from cloud_server.serve.startup import check_transport

    for name in list(os.environ):
        if name.startswith("FEATHERWIRE_"):
            monkeypatch.delenv(name)
    make_development_ca(tmp_path)
    text = (DEPLOY / "cloud.yaml").read_text().replace("/etc/featherwire/keys", str(tmp_path))
    (tmp_path / "cloud.yaml").write_text(text)
    settings = ServerSettings.load(tmp_path / "cloud.yaml")
    check_transport(settings)  # it is not insecure
    assert not settings.insecure
    assert settings.listen == "0.0.0.0:7570"  # reachable from outside the container
    grace_s = int(read()["services"]["cloud"]["stop_grace_period"].removesuffix("s"))
    stop_s = int(unit("featherwire-cloud.service")["Service"]["TimeoutStopSec"])
    assert settings.drain_deadline_s < min(grace_s, stop_s)


def test_images_set_only_variables_that_are_settings() -> None:
    from cloud_server.serve.settings import ServerSettings

    known = {f"FEATHERWIRE_{name.upper()}" for name in ServerSettings.model_fields}
    used = set(re.findall(r"FEATHERWIRE_\w+", (DEPLOY / "cloud.Dockerfile").read_text()))
    assert used <= known


# --- systemd ---------------------------------------------------------------------------------


def test_units_end_by_sigterm_and_start_with_the_machine() -> None:
    for name in ("cloud", "stream@"):
        one = unit(f"featherwire-{name}.service")
        assert one["Service"]["KillSignal"] == "SIGTERM"
        assert one["Install"]["WantedBy"] == "multi-user.target"


def test_the_streaming_unit_uses_options_that_there_are() -> None:
    service = unit("featherwire-stream@.service")["Service"]
    words = shlex.split(service["ExecStart"])
    run_it = "from edge_client.cli import main; main()"
    told = subprocess.run(
        [sys.executable, "-c", run_it, "stream", "--help"],
        env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    head = (DEPLOY / "featherwire-stream@.service").read_text().partition("[Unit]")[0]
    proposed = re.findall(r"^#   OPTIONS=(.*)", head, re.MULTILINE)
    assert len(proposed) == 2
    options = [word for word in (*words, *" ".join(proposed).split()) if word.startswith("--")]
    assert {"--server", "--device", "--spool", "--json"} <= set(options)
    assert all(f"{option} " in told for option in options)
    # It needs up to twice the default of --grace, and then some, before it is killed.
    assert int(service["TimeoutStopSec"]) > 2 * 10
    assert service["RestartPreventExitStatus"] == "2"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_streaming_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "featherwire-stream@.service").read_text()
    program = tmp_path / "featherwire-edge"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "featherwire-stream@yard.service"
    path.write_text(text.replace("/opt/featherwire/bin/featherwire-edge", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if path.name in line]
    assert complaints == []


# --- the health checks, for real -------------------------------------------------------------


def healthcheck(target: str, *ca: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEPLOY / "healthcheck.py"), target, *ca],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip


def test_health_check_follows_a_real_server() -> None:
    servicer = health.HealthServicer()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        assert healthcheck(f"127.0.0.1:{port}").returncode == 0
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        stopped = healthcheck(f"127.0.0.1:{port}")
        assert stopped.returncode == 1
        assert "NOT_SERVING" in stopped.stderr
        servicer.set("some.part", health_pb2.HealthCheckResponse.SERVING)
        assert healthcheck(f"127.0.0.1:{port}/some.part").returncode == 0
    finally:
        server.stop(None).wait()
    gone = healthcheck(f"127.0.0.1:{port}")
    assert gone.returncode == 1
    assert "UNAVAILABLE" in gone.stderr


def test_health_check_speaks_tls_and_needs_no_token(tmp_path: Path) -> None:
    from cloud_server.auth.development_ca import make_development_ca

    make_development_ca(tmp_path)
    servicer = health.HealthServicer()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    pair = ((tmp_path / "server.key").read_bytes(), (tmp_path / "server.pem").read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        assert healthcheck(f"127.0.0.1:{port}", str(tmp_path / "ca.pem")).returncode == 0
        assert healthcheck(f"127.0.0.1:{port}").returncode == 1
        ca = str(tmp_path / "ca.pem")
        assert healthcheck(f"127.0.0.1:{port}", ca, "localhost").returncode == 0
        assert healthcheck(f"127.0.0.1:{port}", ca, "cloud.example").returncode == 1
    finally:
        server.stop(None).wait()


def edge_health(port: int) -> int:
    program = [sys.executable, str(DEPLOY / "edge_health.py"), str(port)]
    return subprocess.run(program, capture_output=True, timeout=30).returncode


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_an_edge_is_healthy_while_it_has_a_connection(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family is socket.AF_INET else "::1"
    with socket.socket(family) as listening:
        try:
            listening.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        listening.listen()
        port = listening.getsockname()[1]
        assert edge_health(port) == 1  # listening is no connection
        with socket.create_connection((host, port)):
            assert edge_health(port) == 0
    assert edge_health(port) == 1

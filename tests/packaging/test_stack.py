"""docker-compose.yml's services for real, without containers: as processes of this machine.

Commands, scripts, settings and order are those of the file; only paths and addresses are moved.
PostgreSQL asks for the password that `secrets` made; Prometheus, where it is installed, scrapes
with our configuration and answers every query of the dashboard.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.support import postgres
from tests.support.composed import DASHBOARD, ROOT, Machine, read

DEPLOY = ROOT / "deploy"
SERVICES: dict[str, Any] = read()["services"]
CLOUD, EDGE = "featherwire-cloud", "featherwire-edge"
PATIENCE_S = 120
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
FRAMES = 3


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in taken]


def until(
    condition: Callable[[], bool], machine: Machine, process: subprocess.Popen[bytes]
) -> None:
    """Wait for what ``process`` shall bring about, while it runs."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        waits = process.poll() is None and time.monotonic() < deadline
        assert waits, (process.args, (machine.folder / "log").read_text()[-3000:])
        time.sleep(0.5)


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


@contextmanager
def running(
    machine: Machine, service: str, entrypoint: list[str], ends: int | None = 0
) -> Iterator[subprocess.Popen[bytes]]:
    """A service, which ends by itself on SIGTERM with the exit status ``ends``, if one is given."""
    process = machine.start(SERVICES[service], entrypoint)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        assert ends is None or code == ends, (service, code, (machine.folder / "log").read_text())
    finally:
        process.kill()
        process.wait()


def healthy(machine: Machine, service: str) -> bool:
    kind, *words = SERVICES[service]["healthcheck"]["test"]
    assert kind == "CMD"
    words = [sys.executable if word == "python" else machine.here(word) for word in words]
    return subprocess.run(words, capture_output=True, timeout=30).returncode == 0


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    names = ("db", "cloud", "metrics", "console", "prometheus")
    return dict(zip(names, free_ports(len(names)), strict=True))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, ports: dict[str, int]) -> Machine:
    folder = tmp_path_factory.mktemp("stack")
    for name in ("keys", "ca", "camera", "database", "grafana"):
        (folder / "etc" / name).mkdir(parents=True)
    moved = {
        "/etc/featherwire/cloud.yaml": f"{folder}/cloud.yaml",
        "/etc/featherwire": f"{folder}/etc",
        "/etc/prometheus/prometheus.yml": f"{folder}/prometheus.yml",
        "=/prometheus": f"={folder}/prometheus",
        "/usr/local/lib/featherwire": str(folder),
        "/usr/share/featherwire/footage.mp4": f"{folder}/footage.mp4",
        "/var/lib/featherwire": f"{folder}/var",
        "db:5432": f"127.0.0.1:{ports['db']}",
        "0.0.0.0:7570": f"127.0.0.1:{ports['cloud']}",
        "0.0.0.0:9464": f"127.0.0.1:{ports['metrics']}",
        "0.0.0.0:8080": f"127.0.0.1:{ports['console']}",
        "localhost:7570": f"localhost:{ports['cloud']}",
        "'localhost', 8080": f"'localhost', {ports['console']}",
        "cloud:7570": f"localhost:{ports['cloud']}",
        "cloud:9464": f"127.0.0.1:{ports['metrics']}",
    }
    machine = Machine(folder, moved)
    (folder / "var").mkdir()
    compose, prometheus = DEPLOY / "compose", DEPLOY / "prometheus"
    for file in (
        DEPLOY / "cloud.yaml", DEPLOY / "healthcheck.py", DEPLOY / "edge_health.py",
        compose / "secrets.sh", compose / "tokens.sh",
        prometheus / "prometheus.yml", prometheus / "alerts.yml",
    ):  # fmt: skip
        machine.copy(file)
    film = [sys.executable, DEPLOY / "footage.py", folder / "footage.mp4", "8"]
    subprocess.run(film, check=True, timeout=120)
    return machine


@pytest.fixture(scope="module")
def stack(machine: Machine, ports: dict[str, int]) -> Iterator[Machine]:
    """The server with its database, and the camera, which has sent some frames."""
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    assert machine.run(SERVICES["secrets"], [CLOUD]) == 0, (machine.folder / "log").read_text()
    password = (machine.folder / "etc/database/password").read_text()
    with (
        postgres.cluster("featherwire", password, ports["db"]) as cluster,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.delenv("XDG_DATA_HOME", raising=False)
        cluster.database("featherwire")
        assert machine.run(SERVICES["tokens"], [CLOUD]) == 0, (machine.folder / "log").read_text()
        with running(machine, "cloud", [CLOUD]) as cloud:
            until(lambda: healthy(machine, "cloud"), machine, cloud)
            with running(machine, "camera", [EDGE]) as camera:
                until(lambda: analysed(ports) >= FRAMES, machine, camera)
                yield machine


def analysed(ports: dict[str, int]) -> float:
    lines = get(f"http://127.0.0.1:{ports['metrics']}/metrics").splitlines()
    counts = [line for line in lines if line.startswith("featherwire_frames_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in counts if 'outcome="ok"' in line)


def test_the_camera_is_healthy(stack: Machine, ports: dict[str, int]) -> None:
    check = [sys.executable, str(stack.folder / "edge_health.py"), str(ports["cloud"])]
    assert subprocess.run(check, capture_output=True, timeout=30).returncode == 0


def test_its_results_are_in_postgresql(stack: Machine) -> None:
    """An operator reads them with the token that `tokens` made."""
    keys = stack.folder / "etc" / "keys"
    words = ["results", "list", "--limit", str(FRAMES), "--json"]
    words += ["--server", stack.here("cloud:7570"), "--tls-ca", str(keys / "ca.pem")]
    done = subprocess.run(
        [stack.folder / "bin" / CLOUD, *words, "--token-file", keys / "operator.token"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    documents = json.loads(done.stdout)["results"]
    assert len(documents) == FRAMES
    assert all("compose-camera" in json.dumps(document) for document in documents)
    assert not (stack.folder / "var" / "log.db").exists()


def test_the_console_shows_its_door(stack: Machine, ports: dict[str, int]) -> None:
    with running(stack, "console", [CLOUD], ends=None) as console:
        until(lambda: healthy(stack, "console"), stack, console)
        assert "<html" in get(f"http://127.0.0.1:{ports['console']}/")


def test_prometheus_answers_every_query_of_the_dashboard(
    stack: Machine, ports: dict[str, int]
) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("Prometheus is not installed (Debian's package prometheus)")
    here = f"http://127.0.0.1:{ports['prometheus']}"

    def ask(query: str) -> list[dict[str, Any]]:
        found = get(f"{here}/api/v1/query?" + urllib.parse.urlencode({"query": query}))
        answer = json.loads(found or '{"status": "none"}')
        if answer["status"] != "success":
            return []
        results: list[dict[str, Any]] = answer["data"]["result"]
        return results

    listen = f"--web.listen-address=127.0.0.1:{ports['prometheus']}"
    with running(stack, "prometheus", ["prometheus", listen], ends=None) as process:
        rates = 'rate(featherwire_frames_total{outcome="ok"}[1m])'
        until(lambda: bool(ask(rates)), stack, process)
        empty = set()
        for panel in DASHBOARD["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
                if not ask(query):
                    empty.add(panel["title"])
        # Nothing was refused, forgotten or lost, and PostgreSQL's exporter does not run here.
        assert empty <= {
            "Refused a second, by reason", "Records forgotten a second", "Workers that died",
            "Database's size", "Database: commits and rollbacks a second",
        }  # fmt: skip
        assert ask('up{job="featherwire"} == 1')
        assert not ask('ALERTS{alertstate="firing"}')

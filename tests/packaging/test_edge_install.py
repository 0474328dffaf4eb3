"""A device gets a small install: built as a wheel, into a fresh environment, from the index."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 290_000_000  # 48 of them are four bundles
SLOWEST_HELP_RATIO = 1.8  # of the time that the help of an empty typer program takes


@dataclass(frozen=True)
class EdgeInstall:
    wheel: Path
    python: Path
    site_packages: Path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment, away from the checkout."""
        return subprocess.run(
            [str(part) for part in command],
            cwd=self.wheel.parent,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )


def _environment() -> dict[str, str]:
    """Without the checkout on the path, where pip would find the package installed already."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> EdgeInstall:
    folder = tmp_path_factory.mktemp("edge")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    own = _environment()
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, source], check=True, env=own)
    (wheel,) = folder.glob("featherwire-*.whl")
    constraints = ROOT / "constraints-edge.txt"
    subprocess.run([*pip, "install", "-c", constraints, f"{wheel}[edge]"], check=True, env=own)
    (site_packages,) = (folder / "venv" / "lib").glob("python3.*/site-packages")
    return EdgeInstall(wheel, python, site_packages)


def test_installed_size(edge: EdgeInstall, record_property: pytest.RecordProperty) -> None:
    """Everything in site-packages counts: pip, compiled bytecode, our own bundle."""
    files = [path for path in edge.site_packages.rglob("*") if path.is_file()]
    installed_bytes = sum(path.stat().st_size for path in files)
    record_property("installed_bytes", installed_bytes)
    print(f"edge install: {installed_bytes / 1e6:.1f} MB")
    assert installed_bytes < LIMIT_BYTES


def test_without_its_extra_a_source_says_which_is_missing(edge: EdgeInstall) -> None:
    stream = (edge.python.parent / "featherwire-edge", "stream", "rtsp://127.0.0.1/x")
    done = edge.run(*stream, "--server", "127.0.0.1:1")
    assert done.returncode == 3
    # As printed it works here: from the wheel that this was installed from, into this environment.
    assert f"{edge.python} -m pip install '{edge.wheel}[stream]'" in done.stderr
    assert "[missing_extra]" in done.stderr


def test_no_heavy_package_came_along(edge: EdgeInstall) -> None:
    present = {path.name for path in edge.site_packages.iterdir()}
    assert "onnxruntime" in present
    assert "constriction" not in present, "it has no wheel for Linux on ARM, and no source"
    heavy = {"torch", "torchvision", "diffusers", "cv2", "nvidia", "pandas", "scipy", "av", "httpx"}
    assert not present & heavy


IMPORT_ALL = """
import importlib, json, pkgutil, sys
names = []
for package in ("shared", "edge_client"):
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            names.append(module.name)
print(json.dumps({"imported": names, "torch": "torch" in sys.modules}))
"""


def test_every_module_of_the_edge_imports_without_the_cloud(edge: EdgeInstall) -> None:
    done = edge.run(edge.python, "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert "shared.preprocess.photo" in report["imported"]
    assert not report["torch"]


def test_installed_code_reads_a_photo(edge: EdgeInstall, photo_files: dict[str, Path]) -> None:
    script = (
        "import sys; from shared.preprocess import load_photo; print(load_photo(sys.argv[1]).shape)"
    )
    done = edge.run(edge.python, "-c", script, photo_files["chelsea"])
    assert done.stdout.strip() == "(300, 451, 3)", done.stderr


def test_the_doctor_finds_it_whole(edge: EdgeInstall, tmp_path: Path) -> None:
    command = edge.python.parent / "featherwire"
    done = edge.run(command, "doctor", "--json", "--spool", tmp_path / "spool")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["roles"] == ["edge"]
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert states["extra edge"] == states["onnxruntime"] == states["picture"] == "ok"
    assert states["extra cloud"] == states["extra stream"] == "optional"
    assert "torch" not in states
    assert edge.run(command, "doctor", "--for", "cloud").returncode == 1
    assert f"-m pip install '{edge.wheel}[cloud,tasks]'" in edge.run(command).stdout


def seconds_of(edge: EdgeInstall, *command: str | Path) -> float:
    """How long a command runs."""
    started = time.perf_counter()
    done = edge.run(*command)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - started


EMPTY_PROGRAM = """
import typer
app = typer.Typer()
for name in ("one", "two"):
    app.command(name)(lambda: None)
app(["--help"])
"""


def test_help_is_quick(edge: EdgeInstall, record_property: pytest.RecordProperty) -> None:
    """As a ratio, because machines differ: --help may not import the runtime or the network."""
    command = edge.python.parent / "featherwire-edge"
    assert "encode" in edge.run(command, "--help").stdout
    # The fastest of each: others waited for somebody else's work, which by turns meets both.
    times = [
        (seconds_of(edge, edge.python, "-c", EMPTY_PROGRAM), seconds_of(edge, command, "--help"))
        for _ in range(6)
    ]
    empty_s, help_s = map(min, zip(*times, strict=True))
    record_property("help_s", help_s)
    print(f"featherwire-edge --help: {help_s:.2f} s; an empty typer program: {empty_s:.2f} s")
    assert help_s / empty_s < SLOWEST_HELP_RATIO


def test_wheel_carries_types_stubs_and_licence_but_no_tests(edge: EdgeInstall) -> None:
    names = zipfile.ZipFile(edge.wheel).namelist()
    for package in ("shared", "edge_client", "cloud_server"):
        assert f"{package}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "deploy/"))]
    tracked = subprocess.run(
        ["git", "ls-files", "shared/bundles", "shared/proto"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert not set(tracked) - set(names)

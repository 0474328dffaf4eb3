"""The import rules bite: a forbidden import anywhere makes `lint-imports` fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shared", "codec", "edge_client", "cloud_server", "training", "benchmarks")

# File that gets the import, the import, the contract that it breaks.
FORBIDDEN = [
    ("shared/errors.py", "import torch", "shared runs on numpy"),
    ("shared/limits.py", "def f():\n    import grpc", "only shared.rpc opens gRPC channels"),
    ("shared/preprocess/photo.py", "import cloud_server", "no import runs up"),
    ("shared/errors.py", "import codec.base", "no import runs up"),
    ("shared/errors.py", "import PIL.Image", "only shared.preprocess reads photo files"),
    ("shared/errors.py", "import httpx", "only shared.sinks talks to brokers"),
    ("codec/layered.py", "import cloud_server.tasks", "no import runs up"),
    ("codec/onnx.py", "import torch", "an edge install has no torch"),
    ("edge_client/__init__.py", "import torch", "an edge install has no torch"),
    ("edge_client/__init__.py", "import cloud_server", "no import runs up, and the two ends"),
    ("cloud_server/__init__.py", "import edge_client", "no import runs up, and the two ends"),
    ("cloud_server/__init__.py", "import training", "no import runs up"),
    ("training/__init__.py", "import cloud_server.ingest", "training uses the cloud's networks"),
    ("training/__init__.py", "import edge_client", "training uses the cloud's networks"),
    ("training/__init__.py", "import benchmarks", "no import runs up"),
]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [str(program), "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in PACKAGES:
        only_python = shutil.ignore_patterns("__pycache__", "bundles")
        shutil.copytree(ROOT / package, folder / package, ignore=only_python)
    return folder


def test_the_code_keeps_the_rules(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(("file", "statement", "contract"), FORBIDDEN)
def test_forbidden_import_is_found(copy: Path, file: str, statement: str, contract: str) -> None:
    path = copy / file
    original = path.read_text()
    path.write_text(f"{original}\n\n{statement}\n")
    try:
        done = lint(copy)
    finally:
        path.write_text(original)
    assert done.returncode == 1
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert any(line.startswith(contract) for line in broken), done.stdout[-3000:]

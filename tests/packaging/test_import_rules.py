"""The import rules bite: a forbidden import anywhere makes `lint-imports` fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shared", "edge_client", "cloud_server", "training")

# File that gets the import, the import, the contract that it breaks.
FORBIDDEN = [
    ("shared/errors.py", "import torch", "shared stands alone"),
    ("shared/limits.py", "def f():\n    import grpc", "shared stands alone"),
    ("shared/preprocess/photo.py", "import cloud_server", "shared stands alone"),
    ("shared/errors.py", "import PIL.Image", "only shared.preprocess reads photo files"),
    ("shared/errors.py", "import httpx", "only shared.sinks talks to brokers"),
    ("edge_client/__init__.py", "import torch", "an edge install has no torch, and no server"),
    ("edge_client/__init__.py", "import cloud_server", "an edge install has no torch"),
    ("cloud_server/__init__.py", "import edge_client", "the cloud server knows no client"),
    ("cloud_server/__init__.py", "import training", "the cloud server knows no client"),
    ("training/__init__.py", "import cloud_server.ingest", "training uses the cloud's networks"),
    ("training/__init__.py", "import edge_client", "training uses the cloud's networks"),
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

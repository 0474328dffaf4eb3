"""Devices are ARM: their wheels exist, and they code and decode the same bits as a PC."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import emulated, portable
from tests.support.emulated import ARM64, ROOT, pip_for, requirements

EXTRAS = ("edge", "stream", "mqtt", "webhook")
"""What a device may want of ours."""
MACOS_ARM64 = (
    *(f"macosx_{major}_0_arm64" for major in range(14, 10, -1)),
    *("macosx_11_0_universal2", "macosx_10_9_universal2"),
)
WINDOWS = ("win_amd64",)


def resolve(folder: Path, platforms: tuple[str, ...], *wanted: str) -> set[str]:
    """The names of the wheels that pip would install there; nothing is built, nothing installed."""
    report = folder / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
         "--target", str(folder / "nothing"), "--report", str(report), *pip_for(platforms),
         "-c", str(ROOT / "constraints-edge.txt"), *wanted],
        capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    assert all(row["download_info"]["url"].endswith(".whl") for row in rows)
    return {row["metadata"]["name"].lower().replace("_", "-") for row in rows}


@pytest.mark.parametrize(
    "platforms", [ARM64, MACOS_ARM64, WINDOWS], ids=["linux-arm64", "macos-arm64", "windows"]
)
def test_an_edge_is_made_of_wheels(tmp_path: Path, platforms: tuple[str, ...]) -> None:
    """A device has no compiler: every package that the edge needs has a wheel for it."""
    found = resolve(tmp_path, platforms, *requirements(*EXTRAS))
    assert {"numpy", "onnxruntime", "grpcio", "av", "paho-mqtt", "httpx"} <= found


@pytest.fixture(scope="module")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> emulated.Arm64:
    lacking = emulated.missing()
    if lacking is not None:
        pytest.skip(f"an arm64 machine cannot be emulated: {lacking}")
    try:
        return emulated.machine(tmp_path_factory.mktemp("arm64"))
    except emulated.NoMachineError as error:
        pytest.skip(f"an arm64 machine cannot be set up: {error}")


@pytest.mark.arm64
@pytest.mark.timeout(900)
def test_an_arm64_python_codes_and_decodes_the_same_bits(arm64: emulated.Arm64) -> None:
    done = arm64.python("-m", "tests.support.portable", timeout=840)
    assert done.returncode == 0, done.stderr[-4000:]
    there = json.loads(done.stdout)
    assert there["machine"] == "aarch64"
    assert not there["constriction"]
    for name, sums in there["decoded"].items():
        golden = json.loads((portable.golden_folder(name) / "golden.json").read_text())
        expected = {row["file"]: row["latents_sha256"] for row in golden["files"]}
        expected |= portable.streams(name)
        assert {file: sums.get(file) for file in expected} == expected
        assert there["encoded"][name] == portable.encoded(name)
    assert sum(map(len, there["encoded"].values())) > 10


WITHOUT_POSIX = """
import importlib, pkgutil, select, signal, sys
for library in ("asyncio", "ssl", "subprocess", "tempfile", "urllib.request", "numpy", "grpc.aio",
                "typer", "rich.live", "structlog", "sqlite3", "multiprocessing", "onnxruntime",
                "av", "httpx", "paho.mqtt.client", "torch", "PIL.ImageCms", "google_crc32c"):
    try:
        importlib.import_module(library)  # as they are here
    except ImportError:
        pass
sys.modules["fcntl"] = sys.modules["termios"] = sys.modules["resource"] = sys.modules["pwd"] = None
sys.platform = "win32"
sys.modules["msvcrt"] = type(sys)("msvcrt")
del signal.SIGHUP, select.poll
for package in ("shared", "codec", "edge_client"):
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        if ".train" not in module.name and not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                named = getattr(error, "name", None)
                assert named not in ("fcntl", "termios", "resource", "pwd"), (module.name, named)
"""


def test_the_edge_imports_where_there_is_no_posix() -> None:
    """Windows has no fcntl, no SIGHUP, no poll. What they are used for was read, not run there."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, timeout=170, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]

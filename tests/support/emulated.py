"""An arm64 machine on this one: Debian's Python under QEMU, with an edge install for arm64.

Debian's packages ``mmdebstrap`` and ``qemu-user-static``; less than a minute to set up.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = "qemu-aarch64-static"
BOOTSTRAP = "mmdebstrap"
SUITE = "bookworm"
PYTHON = "usr/bin/python3.11"
PACKAGES = (
    "python3", "libpython3.11-stdlib", "libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1",
    "libffi8", "libbz2-1.0", "liblzma5", "libsqlite3-0", "libssl3", "libuuid1",
)  # fmt: skip
GLIBC = ("2_28", "2_27", "2_26", "2_24", "2_17")
"""Of manylinux tags: those that a device of Debian 10 (2019) or younger takes."""
ARM64 = (*(f"manylinux_{version}_aarch64" for version in GLIBC), "manylinux2014_aarch64")


def missing() -> str | None:
    """What stands in the way of an emulated machine, or None."""
    if sys.platform != "linux" or sys.version_info[:2] != (3, 11):
        return "it is set up for Python 3.11 on Linux"
    lacking = [name for name in (EMULATOR, BOOTSTRAP) if shutil.which(name) is None]
    return f"there is no {' and no '.join(lacking)}" if lacking else None


def pip_for(platforms: tuple[str, ...]) -> list[str]:
    """Options with which pip chooses wheels for CPython 3.11 on such machines, and builds none."""
    return [
        "--only-binary=:all:", "--python-version=3.11", "--implementation=cp",
        *(f"--platform={name}" for name in platforms),
    ]  # fmt: skip


def requirements(*extras: str) -> list[str]:
    """What the package and such extras of it need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = [*project["dependencies"]]
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return found


@dataclass(frozen=True)
class Arm64:
    """A root with Python, and the packages of an edge install beside it."""

    root: Path
    packages: Path

    def python(self, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run its Python in the checkout, with our code and the packages on its path."""
        environment = {
            "PYTHONPATH": f"{self.packages}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": os.environ["PATH"],
        }  # fmt: skip
        command = [EMULATOR, "-cpu", "max", "-L", str(self.root), str(self.root / PYTHON)]
        return subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip


class NoMachineError(Exception):
    """Debian's archive does not answer."""


def machine(folder: Path) -> Arm64:
    """Set one up in a folder. Raises NoMachineError without Debian's archive, and
    CalledProcessError where pip finds no wheel for it."""
    root, packages = folder / "root", folder / "packages"
    made = subprocess.run(
        [BOOTSTRAP, "--variant=extract", "--architectures=arm64", f"--include={','.join(PACKAGES)}",
         SUITE, str(root)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if made.returncode or not (root / PYTHON).is_file():
        raise NoMachineError(made.stderr[-2000:])
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages),
         *pip_for(ARM64), "-c", str(ROOT / "constraints-edge.txt"), *requirements("edge")],
        check=True, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    return Arm64(root, packages)

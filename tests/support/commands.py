"""Our commands as processes."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.servers import ROOT


def run(package: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    code = f"from {package}.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, env=environment, timeout=90,
    )  # fmt: skip

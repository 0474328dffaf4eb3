"""Python processes that run code with other threads, hashes and processor instructions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def printed(code: str, environment: dict[str, str]) -> dict[str, str]:
    """The pairs of words that ``code`` prints in a Python process with such variables."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
    )
    return dict(line.split() for line in done.stdout.splitlines())


ENVIRONMENTS = {
    "one-thread": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    "two-threads": {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
    "no-avx512": {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX"},
    "old-cpu": {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3", "OPENBLAS_CORETYPE": "Nehalem"},
    "other-hashes": {"PYTHONHASHSEED": "1234", "PYTHONOPTIMIZE": "1"},
}

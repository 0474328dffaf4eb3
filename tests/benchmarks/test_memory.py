"""The benchmark's memory figure is the edge client's alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.demo.processes import DemoError
from benchmarks.memory import edge_peak_megabytes
from tests.support.tiny_bundle import make_tiny_bundle


def test_what_the_measuring_process_holds_does_not_count(
    tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    make_tiny_bundle(tmp_path / "bundle")
    held = np.ones(100_000_000)  # 800 MB, touched
    peak = edge_peak_megabytes(photos["astronaut"], str(tmp_path / "bundle"))
    assert held[-1] == 1
    assert 30 < peak < 400


def test_a_command_that_fails_is_an_error(tmp_path: Path, photos: dict[str, np.ndarray]) -> None:
    with pytest.raises(DemoError):
        edge_peak_megabytes(photos["astronaut"], str(tmp_path / "nothing"))

"""A feature bundle's edge path is timed whole and by stage, beside AVIF at its input's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed.times import FEATURE_REFERENCE, feature_speeds, speed_table
from tests.support.feature_bundle import make_feature_bundle
from tests.support.tiny_bundle import make_tiny_bundle


def test_the_whole_path_and_its_stages_are_timed(
    tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    pixels = np.ascontiguousarray(photos["coffee"][:240, :320])
    rows = {row["job"]: row for row in feature_speeds(make_feature_bundle(tmp_path), pixels, 3)}
    assert list(rows) == [
        "ours encode, state 0", "ours encode, state 2", "  of it resize",
        "  of it network (fp32)", "  of it quantise", "  of it contexts and coding, all states",
        FEATURE_REFERENCE,
    ]  # fmt: skip
    assert rows[FEATURE_REFERENCE]["relative_to_avif_encode"] == 1
    assert all(row["milliseconds"] > 0 for row in rows.values())
    table = speed_table(list(rows.values()), pixels, FEATURE_REFERENCE)
    assert table.startswith("| 320x240, one thread | ms | relative to AVIF speed 6 at the network")


def test_a_bundle_that_resizes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="brings pictures to no size"):
        feature_speeds(make_tiny_bundle(tmp_path), np.zeros((64, 64, 3), np.uint8))

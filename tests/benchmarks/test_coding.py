"""The container's versions beside each other: bytes and times of every chain of bundles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.coding import coding, coding_table
from tests.support.feature_bundle import make_feature_bundle
from tests.support.tiny_bundle import make_tiny_bundle


def test_a_row_a_chain_says_what_the_new_version_costs(
    tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    small = np.ascontiguousarray(photos["coffee"][:240, :320])
    bundles = {
        "features": make_feature_bundle(tmp_path / "features"),
        "pictures": make_tiny_bundle(tmp_path / "pictures"),
    }
    rows = list(coding(bundles, [small], rounds=1))
    assert {row["bundle"] for row in rows} == set(bundles)
    for row in rows:
        old, new = row["payload_bytes"]
        assert new <= 1.003 * old + 2 * row["layers"], "the new coder takes no more bytes"
        assert row["encode_ratio"] > 0
        assert row["decode_ratio"] > 0
    assert len(coding_table(rows).splitlines()) == len(rows) + 2

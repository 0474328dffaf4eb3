"""The transport's benchmark: every frame has its ack and its result, and the ratio is theirs."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.transport.measure import transport, transport_table, write_transport
from tests.support.tiny_bundle import make_tiny_bundle


def test_rates_are_measured_beside_the_echo(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    rows = transport(bundle, sizes=(2_000,), sessions=(1, 2), frames=80, rounds=3)
    assert [row["sessions"] for row in rows] == [1, 2]
    for row in rows:
        assert row["message_bytes"] > row["payload_bytes"] == 2_000
        # Not the reach, which a busy machine says nothing about, and frames go out in batches there
        # while the echo's go one by one: it is no order of magnitude.
        assert 0.02 < row["ratio"] < 10
    assert transport_table(rows).count("\n") == 4 + len(rows)
    write_transport(rows, tmp_path)
    assert json.loads((tmp_path / "transport.json").read_text()) == rows

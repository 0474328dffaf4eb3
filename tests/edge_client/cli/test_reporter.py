"""What a person is told of a stream, without a stream."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edge_client.cli.reporter import Reporter
from shared.errors import SourceError


def captures(message: str | None) -> Any:
    """As the source's thread shows it: why it is away, None while it gives pictures."""
    error = None if message is None else SourceError("source_away", message)
    return SimpleNamespace(state="running" if error is None else "away", error=error)


def test_what_could_not_be_read_is_said_in_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"sent": 3, "key_frames": 1, "predicted_frames": 2, "results": 3, "failed": 0}
    for damaged, quiet in ((0, False), (0, True), (2, True)):
        Reporter("server", None, quiet=quiet).end(counts | {"source": {"damaged": damaged}})
    whole = "ended: 3 frames (1 key frame, 2 predicted), 3 results"
    assert capsys.readouterr().err.splitlines() == [
        whole,
        f"{whole}, 2 parts of the source could not be read",
    ]


def test_every_way_to_be_away_is_said_once_until_the_source_is_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reporter = Reporter("server", None)
    for message in (None, "refused", "reset", "refused", "reset", None, None, "reset", None):
        reporter.look(captures(message))
    assert capsys.readouterr().err.splitlines() == [
        "the source is away: refused [source_away]; it is opened again",
        "the source is away: reset [source_away]; it is opened again",
        "the source is back",
        "the source is away: reset [source_away]; it is opened again",
        "the source is back",
    ]

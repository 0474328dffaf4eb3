"""What a spool tells of its frames, and which results its owner has seen."""

from __future__ import annotations

from dataclasses import dataclass

from shared.proto.featherwire.v1 import ingest_pb2


@dataclass(frozen=True, slots=True)
class Queued:
    """A queued frame as it will be sent; with ``default_tasks`` the server runs all tasks that it
    has."""

    sequence: int
    message: ingest_pb2.Frame
    default_tasks: bool
    source: str


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """How full a spool is: ``frames`` and ``payload_bytes`` wait for the server, ``awaited`` for
    results.

    ``counts``: since the spool was made, by reason: put, acknowledged, coarsened, dropped_full,
    dropped_age, dropped_damaged, refused_full, refused_disk_full, ..., damaged_files.
    """

    frames: int
    payload_bytes: int
    awaited: int
    oldest_age_s: float
    counts: dict[str, int]


class SeenResults:
    """The mark ``last``, up to which all results were seen; they may come out of order."""

    def __init__(self, last: int) -> None:
        self.last = last
        self._above: set[int] = set()

    def note(self, result_id: int) -> bool:
        """A result was seen; returns whether that has moved the mark."""
        before = self.last
        if result_id > before:
            self._above.add(result_id)
        while self.last + 1 in self._above:
            self.last += 1
            self._above.remove(self.last)
        return self.last != before


def captured_us(message: ingest_pb2.Frame) -> int | None:
    """When a frame's picture was taken, in microseconds since 1970; None where it does not say."""
    return message.captured_at.ToMicroseconds() if message.HasField("captured_at") else None

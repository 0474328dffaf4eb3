"""Frames of the log as the player in the browser gets them, and the marks along its time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from cloud_server.console.view import formats, overlay
from cloud_server.console.view.timeline import moment, unchanged, wanted
from shared.proto.featherwire.v1 import results_pb2
from shared.wire.requests import MAX_SEQUENCE

MAX_COUNT = 200
"""Frames in an answer: the player asks for more while it plays."""

MARKS = 80
"""Places along the time of the log that are looked at for a mark."""

LATEST_S = 253_402_300_799.0
"""The last second that a timestamp can have."""


@dataclass(frozen=True, slots=True)
class Span:
    """The time that the log holds of a device: of its results, in seconds since 1970; 0: none."""

    first_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a device's frames to read: behind a cursor, before one (0: from the end), or from a
    second since 1970 on. Of all sessions where ``session`` is empty, and of all classes likewise.
    """

    device: str
    session: str = ""
    class_name: str = ""
    after: int = 0
    before: int | None = None
    since_s: float | None = None
    count: int = 1

    @classmethod
    def parse(cls, device: str, query: Mapping[str, str]) -> Place:
        """Of the parameters of a URL. Raises ``ValueError``."""
        before, since = query.get("before"), query.get("since")
        return cls(
            device[:128],
            query.get("session", "")[:128],
            "",
            _cursor(query.get("after", "0")),
            None if before is None else _cursor(before),
            None if since is None else second(since),
            min(max(1, int(query.get("count", "60"))), MAX_COUNT),
        )

    def request(self) -> results_pb2.ListResultsRequest:
        """What is asked of the server."""
        kept = results_pb2.ResultFilter(
            devices=[self.device],
            sessions=[self.session] if self.session else [],
            class_names=[self.class_name] if self.class_name else [],
        )
        if self.since_s is not None:
            kept.since.FromMicroseconds(round(self.since_s * 1e6))
        return results_pb2.ListResultsRequest(
            filter=kept,
            after_cursor=self.after,
            newest_first=self.before is not None,
            before_cursor=self.before or 0,
            page_size=self.count,
        )


def second(text: str) -> float:
    """Seconds since 1970. Raises ``ValueError``."""
    value = float(text)
    if not 0 <= value <= LATEST_S:
        raise ValueError("no such time")
    return value


def frame_of(record: results_pb2.ResultRecord) -> dict[str, Any]:
    """All that is shown of a frame, but for its picture and masks; those have paths of their own.

    ``at`` and ``done`` are seconds: when it was captured, and when its result was there.
    """
    outcome = record.outcome
    analysis = outcome.analysis
    failed = outcome.WhichOneof("outcome") == "error"
    since = analysis.unchanged_since if analysis.HasField("unchanged_since") else None
    captured = record.captured_at if record.HasField("captured_at") else record.completed_at
    parts = [moment(record), f"frame {record.sequence}", f"state {record.state}"]
    if analysis.payload_bytes:
        parts.append(formats.size(analysis.payload_bytes))
    parts += [text for text in [unchanged(record)] if text]
    if failed:
        parts.append(f"failed: {outcome.error.message}")
    return {
        "cursor": record.cursor,
        "session": record.session,
        "sequence": record.sequence,
        "state": record.state,
        "bundle": record.bundle_short_id.hex(),
        "at": seconds(captured),
        "done": seconds(record.completed_at),
        "unchanged": since,
        "failed": failed,
        "size": [analysis.width, analysis.height],
        "picture": wanted(record).url,
        "masks": overlay.has_masks(analysis),
        **overlay.outlines(analysis),
        "found": overlay.in_words(analysis) if analysis.tasks else overlay.nothing(outcome),
        "classes": sorted({one.class_name for one in overlay.objects(analysis)}),
        "caption": ", ".join(parts),
    }


def seconds(stamp: Timestamp) -> float:
    """Since 1970, to the microsecond."""
    return stamp.seconds + stamp.nanos // 1000 / 1e6


def _cursor(text: str) -> int:
    value = int(text)
    if not 0 <= value <= MAX_SEQUENCE:
        raise ValueError("no such cursor")
    return value

"""The results timeline: what is asked for, what is listed, and how it is played."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlencode

from cloud_server.console.view import formats, overlay
from cloud_server.console.view.formats import cell, column, row
from shared.proto.featherwire.v1 import results_pb2, types_pb2

COLUMNS = [
    column("Completed (UTC)"),
    column("Device"),
    column("Frame", number=True),
    column("State", number=True),
    column("Bits/pixel", number=True),
    column("Found", wide=True),
    column("Best score", number=True),
]
LONGEST_GAP_S = 3.0
SHORTEST_GAP_S = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """A frame at a state, None: as it was received. cursor: of the record, so that a refined frame
    is another picture than before. decoder: of the bundle's; empty is the first."""

    device: str
    session: str
    sequence: int
    cursor: int
    state: int | None = None
    decoder: str = ""

    @property
    def url(self) -> str:
        """Where this console serves it."""
        how = {"state": self.state, "decoder": self.decoder or None}
        given = {name: value for name, value in how.items() if value is not None}
        at = f"?{urlencode(given)}" if given else ""
        return f"/picture/{self.device}/{self.session}/{self.sequence}/{self.cursor}{at}"


@dataclass(slots=True)
class Wish:
    """What a filter asks for; empty is no condition. since, until: as browsers write them, UTC."""

    device: str = ""
    class_name: str = ""
    task: str = ""
    since: str = ""
    until: str = ""
    least_score: float = 0.0

    @property
    def query(self) -> str:
        """As a part of a URL, from its question mark on; empty where nothing is asked for."""
        given = {name: str(value) for name, value in asdict(self).items() if value}
        return f"?{urlencode(given)}" if given else ""

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Wish:
        """Of the parameters of such a URL; others are ignored. Raises ``ValueError``."""
        known = {one.name: query[one.name] for one in fields(cls) if one.name in query}
        score = float(known.pop("least_score", "0"))
        if not 0 <= score <= 1:
            raise ValueError("a score lies in 0..1")
        return cls(**known, least_score=score)

    def to_message(self) -> results_pb2.ResultFilter:
        """The part that the server sees to. Raises ``ValueError`` for a time that is none."""
        message = results_pb2.ResultFilter(
            devices=[self.device] if self.device else [],
            tasks=[self.task] if self.task else [],
            class_names=[name.strip() for name in self.class_name.split(",") if name.strip()],
        )
        if self.since:
            message.since.FromDatetime(_instant(self.since))
        if self.until:
            message.until.FromDatetime(_instant(self.until))
        return message

    def keeps(self, record: results_pb2.ResultRecord) -> bool:
        """The rest: whether something was found with that score."""
        if not self.least_score:
            return True
        found = overlay.scores(record.outcome.analysis)
        return max(found, default=0.0) >= self.least_score


def rows(records: Iterable[results_pb2.ResultRecord], picked: int | None) -> list[dict[str, Any]]:
    """picked: the cursor of the record that is shown."""
    return [_row(record, record.cursor == picked) for record in records]


def wanted(record: results_pb2.ResultRecord) -> Wanted:
    """Its picture, as received."""
    return Wanted(record.device, record.session, record.sequence, record.cursor)


def moment(record: results_pb2.ResultRecord) -> str:
    """When the picture was taken; where the device did not say, when its result was there."""
    if record.HasField("captured_at"):
        return f"captured {formats.instant(record.captured_at)} UTC"
    return f"completed {formats.instant(record.completed_at)} UTC"


def unchanged(record: results_pb2.ResultRecord) -> str:
    """Which frame was looked at in this one's place, because no value has changed since; else
    nothing: of a failed frame too."""
    analysis = record.outcome.analysis
    if not analysis.HasField("unchanged_since"):
        return ""
    return f"nothing changed since frame {analysis.unchanged_since}"


def gaps_s(records: Sequence[results_pb2.ResultRecord], speed: float) -> list[float]:
    """How long each record is shown, in seconds: the time to the next one, as it was captured, at
    that speed. Long pauses are cut, and frames of several devices may be of one moment."""
    instants = [_captured(record) for record in records]
    found = []
    for now, then in pairwise(instants):
        found.append(min(max((then - now) / speed, SHORTEST_GAP_S), LONGEST_GAP_S))
    return [*found, LONGEST_GAP_S][: len(records)]


def _captured(record: results_pb2.ResultRecord) -> float:
    stamp = record.captured_at if record.HasField("captured_at") else record.completed_at
    return stamp.seconds + stamp.nanos / 1e9


def _row(record: results_pb2.ResultRecord, picked: bool) -> dict[str, Any]:
    outcome = record.outcome
    failed = outcome.WhichOneof("outcome") == "error"
    best = max(overlay.scores(outcome.analysis), default=None)
    return row(
        str(record.cursor),
        [
            cell(formats.instant(record.completed_at), pick=True),
            cell(record.device, href=f"/device/{quote(record.device)}"),
            cell(str(record.sequence)),
            cell(str(record.state)),
            cell(formats.bits_per_pixel(outcome.analysis.bits_per_pixel)),
            cell(_found(outcome), tone="bad" if failed else ""),
            cell(formats.NONE if best is None else f"{best:.2f}"),
        ],
        picked=picked,
    )


def _found(outcome: types_pb2.FrameOutcome) -> str:
    """What was found, or why nothing could be."""
    if outcome.WhichOneof("outcome") == "error":
        return f"{outcome.error.reason}: {outcome.error.message}"
    wrong = [f"{name} failed" for name in sorted(outcome.task_errors)]
    if not outcome.analysis.tasks:
        return ", ".join(wrong) or "no task was asked"
    return ", ".join([overlay.in_words(outcome.analysis), *wrong])


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)

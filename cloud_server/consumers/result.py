"""A result of a server's log, in plain Python: dates, strings, and what the tasks found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import results_pb2
from shared.results import AnalysisResult, TaskResult, summarise
from shared.wire.results import outcome_from_message

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one frame.

    cursor: its place in the log: ``after=result.cursor`` goes on behind it. device, session,
    sequence: name the frame. bundle: in hex, the first eight bytes of the id of the bundle whose
    ``state`` this is, 0 finest. captured_at: when the picture was taken (UTC), by the device;
    None where it did not say. completed_at: when the server was done (UTC). analysis: what was
    found, in pixels of the picture; None where there is an error in its place. task_errors: of
    tasks that failed alone.
    """

    cursor: int
    device: str
    session: str
    sequence: int
    bundle: str
    state: int
    captured_at: datetime | None
    completed_at: datetime | None
    analysis: AnalysisResult | None
    error: FeatherwireError | None = None
    task_errors: Mapping[str, FeatherwireError] = field(default_factory=dict)

    @property
    def tasks(self) -> Mapping[str, TaskResult]:
        """What each task found, by its name; of a frame that failed, nothing."""
        return {} if self.analysis is None else self.analysis.tasks

    @property
    def found(self) -> str:
        """In words, such as ``2 person, 1 face``, or the error's reason."""
        if self.error is not None:
            return f"error: {self.error.reason}"
        words = [summarise(self.tasks.values()).removeprefix("-")]
        words += [f"{name}: {error.reason}" for name, error in self.task_errors.items()]
        return "; ".join(filter(None, words))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: exactly one of ``analysis`` and ``error`` is no None."""
        return {
            "cursor": self.cursor,
            "device": self.device,
            "session": self.session,
            "sequence": self.sequence,
            "bundle_short_id": self.bundle,
            "state": self.state,
            "captured_at": _text(self.captured_at),
            "completed_at": _text(self.completed_at),
            "analysis": None if self.analysis is None else self.analysis.to_dict(),
            "error": None if self.error is None else self.error.to_dict(),
            "task_errors": {name: error.to_dict() for name, error in self.task_errors.items()},
        }


def result_of(record: results_pb2.ResultRecord) -> Result:
    """A record of the protocol as a result. Raises SessionError ``invalid_message``."""
    outcome = outcome_from_message(record.outcome)
    return Result(
        cursor=record.cursor,
        device=record.device,
        session=record.session,
        sequence=record.sequence,
        bundle=record.bundle_short_id.hex(),
        state=record.state,
        captured_at=_instant(record.captured_at) if record.HasField("captured_at") else None,
        completed_at=_instant(record.completed_at) if record.HasField("completed_at") else None,
        analysis=outcome.analysis,
        error=outcome.error,
        task_errors=outcome.task_errors,
    )


def filter_of(
    *,
    device: str | Iterable[str] = (),
    session: str | Iterable[str] = (),
    tasks: Iterable[str] = (),
    classes: Iterable[str] = (),
    since: datetime | timedelta | None = None,
    until: datetime | None = None,
) -> results_pb2.ResultFilter:
    """Which results are meant; what is not given is no condition.

    device, session: one, or any of several. tasks: at least one of them ran. classes: at least one
    object of them was found. since: completed then or later, or so long ago at most. until:
    completed before. A time without a zone is this machine's. Raises FeatherwireError
    ``bad_option`` for times that a message cannot say.
    """
    if isinstance(since, timedelta):
        try:
            since = datetime.now(UTC) - since
        except OverflowError:
            raise FeatherwireError("bad_option", f"since: {since} is out of range") from None
    return results_pb2.ResultFilter(
        devices=_several(device),
        sessions=_several(session),
        tasks=_several(tasks),
        class_names=_several(classes),
        since=_stamp("since", since),
        until=_stamp("until", until),
    )


def _several(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _stamp(name: str, when: datetime | None) -> Timestamp | None:
    if when is None:
        return None
    stamp = Timestamp()
    try:
        stamp.FromDatetime(when.astimezone(UTC))
    except (ValueError, OverflowError, OSError):
        raise FeatherwireError("bad_option", f"{name}: {when} is out of range") from None
    return stamp


def _instant(stamp: Timestamp) -> datetime | None:
    """UTC, to the microsecond; None for what is no date."""
    try:
        return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)
    except OverflowError:
        return None


def _text(when: datetime | None) -> str | None:
    return None if when is None else f"{when:%Y-%m-%dT%H:%M:%S.%f}Z"

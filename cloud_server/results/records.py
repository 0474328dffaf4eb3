"""What goes into the log and comes out of it, as values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from shared.errors import SessionError
from shared.proto.featherwire.v1 import ingest_pb2, results_pb2, types_pb2

SessionKey = tuple[str, str]
"""Device and session, as the client named them."""

Version = tuple[bytes, int]
"""Of which bundle (short id) layers have come last, and their finest state."""

MAX_FILTER_VALUES = 64
MAX_TERM_CHARACTERS = 300

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Submission:
    """A frame or a refinement that is in the log; ``number`` is 0 for the frame itself."""

    id: int
    key: SessionKey
    sequence: int
    number: int
    version: Version
    captured_us: int | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class NewFrame:
    """A frame for the log: ``message`` as it was received, and its outcome where that is known.

    Then its result is recorded with it. Of a predicted frame ``refers_to`` are the sequences of its
    references, and ``group_start`` is the first sequence that it cannot be decoded without.
    """

    sequence: int
    version: Version
    message: bytes
    captured_us: int | None = None
    outcome: types_pb2.FrameOutcome | None = None
    refers_to: tuple[int, ...] = ()
    group_start: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the log; ``outcome`` is a serialised FrameOutcome without its picture."""

    cursor: int
    key: SessionKey
    sequence: int
    version: Version
    result_id: int
    captured_us: int | None
    completed_us: int
    outcome: bytes
    terms: frozenset[str] = frozenset()

    def to_message(self) -> results_pb2.ResultRecord:
        """The record for consumers."""
        message = results_pb2.ResultRecord(
            cursor=self.cursor,
            device=self.key[0],
            session=self.key[1],
            sequence=self.sequence,
            state=self.version[1],
            bundle_short_id=self.version[0],
            result_id=self.result_id,
        )
        if self.captured_us is not None:
            message.captured_at.FromMicroseconds(self.captured_us)
        message.completed_at.FromMicroseconds(self.completed_us)
        message.outcome.ParseFromString(self.outcome)
        return message

    def to_result(self) -> ingest_pb2.Result:
        """The result for the device."""
        bundle_id, state = self.version
        result = ingest_pb2.Result(
            result_id=self.result_id,
            sequence=self.sequence,
            state=state,
            bundle_short_id=bundle_id,
            cursor=self.cursor,
        )
        if self.captured_us is not None:
            result.captured_at.FromMicroseconds(self.captured_us)
        result.outcome.ParseFromString(self.outcome)
        return result


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a frame that was sent: ``new``, or known, with its result once there is one.

    ``submission`` is None for a frame that was processed and forgotten, and for one that was not
    taken, ``lost``: what it refers to is not kept. ``value`` is what ``check`` returned.
    """

    submission: Submission | None
    new: bool
    record: Record | None = None
    value: Any = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """What records a consumer wants; an empty set is no condition."""

    devices: frozenset[str] = frozenset()
    sessions: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()
    since_us: int | None = None
    """Completed then or later."""
    until_us: int | None = None
    """Completed before."""

    @classmethod
    def parse(cls, message: results_pb2.ResultFilter) -> Filter:
        """Raises ``SessionError("invalid_message")`` for one that is too large."""
        lists = (message.devices, message.sessions, message.tasks, message.class_names)
        for values in lists:
            if len(values) > MAX_FILTER_VALUES or any(len(value) > 256 for value in values):
                raise SessionError(
                    "invalid_message",
                    f"filter: at most {MAX_FILTER_VALUES} values of 256 characters each",
                    field="filter",
                )
        devices, sessions, tasks, classes = (frozenset(values) for values in lists)
        return cls(
            devices,
            sessions,
            frozenset(map(task_term, tasks)),
            frozenset(map(class_term, classes)),
            _instant(message.since) if message.HasField("since") else None,
            _instant(message.until) if message.HasField("until") else None,
        )

    def matches(self, record: Record) -> bool:
        """Whether ``record`` is wanted; its terms must be filled."""
        device, session = record.key
        return (
            (not self.devices or device in self.devices)
            and (not self.sessions or session in self.sessions)
            and (not self.tasks or not self.tasks.isdisjoint(record.terms))
            and (not self.classes or not self.classes.isdisjoint(record.terms))
            and (self.since_us is None or record.completed_us >= self.since_us)
            and (self.until_us is None or record.completed_us < self.until_us)
        )


def task_term(name: str) -> str:
    """The term of a task that ran."""
    return _term("task", name)


def class_term(name: str) -> str:
    """The term of a class that was found."""
    return _term("class", name)


def terms_of(outcome: types_pb2.FrameOutcome) -> frozenset[str]:
    """What filters may look for in an outcome: tasks that ran, classes of objects found."""
    tasks = outcome.analysis.tasks
    if not tasks:
        return frozenset()
    names = (item.class_name for task in tasks.values() for item in _classified(task))
    return frozenset((*map(task_term, tasks), *map(class_term, names)))


SAME_US = 1000
"""Times of one picture differ by less, however they were rounded."""


def same_picture(one_us: int | None, other_us: int | None) -> bool:
    """Whether two frames of one number may be one: they do not say that their pictures were taken
    at different times (microseconds)."""
    return one_us is None or other_us is None or abs(one_us - other_us) < SAME_US


def to_us(instant: datetime) -> int:
    """An aware instant in microseconds since 1970."""
    return (instant - _EPOCH) // (_EPOCH.resolution)


def _instant(message: Timestamp) -> int:
    # Years 1 to 9999, as protobuf's JSON has them: what is beyond fits no column either.
    if not -62_135_596_800 <= message.seconds <= 253_402_300_799:
        raise SessionError("invalid_message", "filter: a time is out of range", field="filter")
    return message.ToMicroseconds()


def _classified(
    task: types_pb2.TaskResult,
) -> Iterable[
    types_pb2.Detection | types_pb2.Instance | types_pb2.Classification | types_pb2.ClassRegion
]:
    yield from task.detections
    yield from task.instances
    yield from task.classes
    yield from task.regions


def _term(kind: str, name: str) -> str:
    # PostgreSQL's texts hold no NUL.
    return f"{kind}:{name}".replace("\0", "�")[:MAX_TERM_CHARACTERS]

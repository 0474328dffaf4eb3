"""Sessions while they are in use: their stream, what is in flight, pictures of their results.

What outlasts the process is in the log (`cloud_server.results`). Everything here runs on the event
loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from cloud_server.results.records import Record, SessionKey
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2, types_pb2


class DeviceStream(Protocol):
    """The stream that is attached to a session, as sessions and the admission of frames see it.

    ``stream.Stream`` is the one there is. It is made of these, so they cannot import it.
    """

    def send(self, message: ingest_pb2.ConnectResponse) -> None:
        """Queue one message."""

    def deliver(self, result: ingest_pb2.Result, command: fleet_pb2.Command | None) -> None:
        """Send a result that has just been recorded, and what to ask of the device."""

    def ask(self, command: fleet_pb2.Command) -> None:
        """Give the device a command of the server's own."""

    def settle(self) -> None:
        """Return the credit of a frame of the session that is done, behind its result."""

    def settle_kept(self, results: Sequence[ingest_pb2.Result], frames: int) -> None:
        """Send results that were recorded with their frames; ``frames`` of these are done."""

    def count_pixels(self, pixels: int) -> None:
        """Charge the device's quota for a picture of so many pixels."""

    def changed(self) -> None:
        """Look again at what was waited for: a frame has left."""

    def fail(self, error: FeatherwireError) -> None:
        """End the stream with this error."""


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """How many pictures of results are kept for a device that did not get them."""

    kept_pictures: int = 64
    kept_picture_bytes: int = 64 * 2**20


@dataclass(slots=True, eq=False)
class Session:
    """One device's numbering of frames, while a stream or a frame in flight needs it."""

    key: SessionKey
    stream: DeviceStream | None = None
    """Results go there as they are recorded; None while none is ready for them."""
    owner: DeviceStream | None = None
    """The stream that has the session, ready or not."""
    in_flight: int = 0
    """Frames that were paid for and have no result yet."""
    last_result_id: int = 0
    """The newest result that was recorded while the session was here."""
    delivered: int = 0
    """Results up to this one have been given to the stream."""
    predicts: bool = False
    """Its device may send frames that refer to frames before them."""
    processing: set[int] = field(default_factory=set)
    """Submissions whose result is being made."""


class SessionRegistry:
    """The sessions that are in use."""

    def __init__(self, limits: PictureLimits | None = None) -> None:
        limits = limits or PictureLimits()
        self._sessions: dict[SessionKey, Session] = {}
        self._pictures: OwnedCache[types_pb2.Picture] = OwnedCache(
            max_bytes=limits.kept_picture_bytes, max_entries_per_owner=limits.kept_pictures
        )

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def keys(self) -> frozenset[SessionKey]:
        """Keys of the sessions that are in use."""
        return frozenset(self._sessions)

    def get(self, key: SessionKey) -> Session:
        """The session, in use from now on until ``let_go``."""
        return self._sessions.setdefault(key, Session(key))

    def attach(self, key: SessionKey, stream: DeviceStream) -> Session:
        """The session with ``stream`` as its owner, in place of the one it had."""
        session = self.get(key)
        before, session.owner, session.stream = session.owner, stream, None
        if before is not None:
            before.fail(_superseded())
        return session

    def detach(self, session: Session, stream: DeviceStream) -> None:
        """Take ``stream`` from its session; results wait in the log for the next one."""
        if session.owner is stream:
            session.owner = session.stream = None
        self.let_go(session)

    def let_go(self, session: Session) -> None:
        """Forget a session that nobody needs."""
        if session.owner is None and session.in_flight == 0 and not session.processing:
            self._sessions.pop(session.key, None)

    def abandoned(self, session: Session) -> None:
        """Forget a frame whose result another server records, or the next start of this one."""
        session.in_flight -= 1
        self.let_go(session)

    def lose(self, key: SessionKey) -> None:
        """End the stream of a session that another server has taken."""
        session = self._sessions.get(key)
        if session is not None and session.owner is not None:
            session.owner.fail(_superseded())

    @property
    def attached(self) -> list[SessionKey]:
        """Sessions that have a stream which has come past its Welcome."""
        return [key for key, one in self._sessions.items() if one.stream is not None]

    def completed(
        self,
        session: Session,
        record: Record,
        picture: types_pb2.Picture | None,
        command: fleet_pb2.Command | None = None,
    ) -> None:
        """Hand a result that was recorded to the stream that is ready for it, if there is one.

        ``command`` goes with it when there is a stream, and is dropped when there is none.
        """
        session.in_flight -= 1
        session.last_result_id = max(session.last_result_id, record.result_id)
        if picture is not None:
            self._pictures.put(session.key, record.result_id, picture, len(picture.data))
        if session.stream is not None:
            if record.result_id > session.delivered:
                session.delivered = record.result_id
                session.stream.deliver(with_picture(record, picture), command)
            session.stream.settle()
        self.let_go(session)

    def kept(self, session: Session, records: Sequence[Record]) -> None:
        """Hand over results of frames that were only kept, recorded together with them."""
        if not records:
            return
        session.in_flight -= len(records)
        if session.stream is not None:
            new = [one.to_result() for one in records if one.result_id > session.delivered]
            session.delivered = max(session.delivered, records[-1].result_id)
            session.stream.settle_kept(new, len(records))
        session.last_result_id = max(session.last_result_id, records[-1].result_id)
        self.let_go(session)

    def result(self, record: Record) -> ingest_pb2.Result:
        """A recorded result for the device, with its picture where that is kept."""
        return with_picture(record, self._pictures.get(record.key, record.result_id))


def _superseded() -> SessionError:
    return SessionError("superseded", "another stream has taken over this session")


def with_picture(record: Record, picture: types_pb2.Picture | None) -> ingest_pb2.Result:
    """The result for the device with its picture, which the record itself does not keep."""
    result = record.to_result()
    if picture is not None:
        result.outcome.picture.CopyFrom(picture)
        result.outcome.ClearField("picture_error")
    return result


Value = TypeVar("Value")


class OwnedCache(Generic[Value]):
    """A least-recently-used cache of several owners (sessions) under one budget in bytes.

    The owner's oldest entry goes when it has more than ``max_entries_per_owner``; the oldest of all
    go when the sum of bytes exceeds ``max_bytes``. A value larger than the budget is not kept.
    """

    def __init__(self, *, max_bytes: int, max_entries_per_owner: int) -> None:
        self._max_bytes = max_bytes
        self._max_entries = max_entries_per_owner
        self._bytes = 0
        self._order: OrderedDict[tuple[Hashable, int], tuple[Value, int]] = OrderedDict()
        self._owned: dict[Hashable, OrderedDict[int, None]] = {}

    def put(self, owner: Hashable, number: int, value: Value, value_bytes: int) -> None:
        """Keep ``value``, or replace the one of this number."""
        self.drop(owner, number)
        if value_bytes > self._max_bytes or self._max_entries == 0:
            return
        self._order[owner, number] = (value, value_bytes)
        owned = self._owned.setdefault(owner, OrderedDict())
        owned[number] = None
        self._bytes += value_bytes
        if len(owned) > self._max_entries:
            self.drop(owner, next(iter(owned)))
        while self._bytes > self._max_bytes:
            self.drop(*next(iter(self._order)))

    def get(self, owner: Hashable, number: int) -> Value | None:
        """The value, now the most recently used; None when it was dropped."""
        entry = self._order.get((owner, number))
        if entry is None:
            return None
        self._order.move_to_end((owner, number))
        return entry[0]

    def values(self, owner: Hashable) -> Iterator[tuple[int, Value]]:
        """Values of ``owner``, in the order in which they were put."""
        for number in list(self._owned.get(owner, ())):
            yield number, self._order[owner, number][0]

    def drop(self, owner: Hashable, number: int) -> None:
        """Forget one value, if it is there."""
        entry = self._order.pop((owner, number), None)
        if entry is None:
            return
        self._bytes -= entry[1]
        owned = self._owned[owner]
        del owned[number]
        if not owned:
            del self._owned[owner]

    @property
    def total_bytes(self) -> int:
        """Bytes of all values."""
        return self._bytes

"""Sessions while they are in use: which stream they have, what is in flight.

What outlasts the process is in the log (`cloud_server.results`). Everything here runs on the event
loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cloud_server.ingest.cache import OwnedCache
from cloud_server.results.records import Record, SessionKey
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2, types_pb2


class Outlet(Protocol):
    """Where a session's results go: the stream that is attached to it."""

    def deliver(self, result: ingest_pb2.Result, command: fleet_pb2.Command | None) -> None:
        """Take a result that has just been recorded, and what to ask of the device."""

    def settle(self) -> None:
        """A frame of the session is done, and no longer takes a credit."""

    def settle_kept(self, results: Sequence[ingest_pb2.Result], frames: int) -> None:
        """Take results that were recorded with their frames; ``frames`` of these are done."""

    def supersede(self) -> None:
        """Another stream has taken the session over."""


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """How many pictures of results are kept for a device that did not get them."""

    kept_pictures: int = 64
    kept_picture_bytes: int = 64 * 2**20


@dataclass(slots=True, eq=False)
class Session:
    """One device's numbering of frames, while a stream or a frame in flight needs it."""

    key: SessionKey
    outlet: Outlet | None = None
    """Results go there as they are recorded; None while none is ready for them."""
    owner: Outlet | None = None
    """The stream that has the session, ready or not."""
    in_flight: int = 0
    """Frames that were paid for and have no result yet."""
    last_result_id: int = 0
    """The newest result that was recorded while the session was here."""
    delivered: int = 0
    """Results up to this one have been given to the outlet."""
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
        """Of the sessions that are in use."""
        return frozenset(self._sessions)

    def get(self, key: SessionKey) -> Session:
        """The session, in use from now on until ``let_go``."""
        return self._sessions.setdefault(key, Session(key))

    def attach(self, key: SessionKey, outlet: Outlet) -> Session:
        """The session with ``outlet`` as its owner, in place of the one it had."""
        session = self.get(key)
        before, session.owner, session.outlet = session.owner, outlet, None
        if before is not None:
            before.supersede()
        return session

    def detach(self, session: Session, outlet: Outlet) -> None:
        """``outlet`` is gone; results wait in the log for the next one."""
        if session.owner is outlet:
            session.owner = session.outlet = None
        self.let_go(session)

    def let_go(self, session: Session) -> None:
        """Forget a session that nobody needs."""
        if session.owner is None and session.in_flight == 0 and not session.processing:
            self._sessions.pop(session.key, None)

    def abandoned(self, session: Session) -> None:
        """A frame's result is another server's to record, or that of the next start."""
        session.in_flight -= 1
        self.let_go(session)

    def lose(self, key: SessionKey) -> None:
        """Another server has taken the session: its stream here ends."""
        session = self._sessions.get(key)
        if session is not None and session.owner is not None:
            session.owner.supersede()

    @property
    def attached(self) -> list[SessionKey]:
        """Sessions that have a stream which has come past its Welcome."""
        return [key for key, one in self._sessions.items() if one.outlet is not None]

    def completed(
        self,
        session: Session,
        record: Record,
        picture: types_pb2.Picture | None,
        command: fleet_pb2.Command | None = None,
    ) -> None:
        """A result was recorded: hand it to the stream that is ready for it, if there is one.

        ``command`` goes with it when there is a stream, and is dropped when there is none.
        """
        session.in_flight -= 1
        session.last_result_id = max(session.last_result_id, record.result_id)
        if picture is not None:
            self._pictures.put(session.key, record.result_id, picture, len(picture.data))
        if session.outlet is not None:
            if record.result_id > session.delivered:
                session.delivered = record.result_id
                session.outlet.deliver(with_picture(record, picture), command)
            session.outlet.settle()
        self.let_go(session)

    def kept(self, session: Session, records: Sequence[Record]) -> None:
        """Results were recorded with their frames, of which nothing was asked."""
        if not records:
            return
        session.in_flight -= len(records)
        if session.outlet is not None:
            new = [one.to_result() for one in records if one.result_id > session.delivered]
            session.delivered = max(session.delivered, records[-1].result_id)
            session.outlet.settle_kept(new, len(records))
        session.last_result_id = max(session.last_result_id, records[-1].result_id)
        self.let_go(session)

    def result(self, record: Record) -> ingest_pb2.Result:
        """A recorded result for the device, with its picture where that is kept."""
        return with_picture(record, self._pictures.get(record.key, record.result_id))


def with_picture(record: Record, picture: types_pb2.Picture | None) -> ingest_pb2.Result:
    """The result for the device; its record says that the picture is not kept."""
    result = record.to_result()
    if picture is not None:
        result.outcome.picture.CopyFrom(picture)
        result.outcome.ClearField("picture_error")
    return result

"""What outlives a stream: a session's accepted frames, its results, its layers for refinement.

All of it is in this process's memory and bounded; a durable log takes its place behind the same
calls. Everything here runs on the event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from cloud_server.ingest.cache import OwnedCache
from shared.bitstream import Bitstream
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2

SessionKey = tuple[str, str]
"""Device and session, as the client named them."""

Version = tuple[bytes, int]
"""Of which bundle (short id) layers have come last, and their finest state."""


class Outlet(Protocol):
    """Where a session's results go: the stream that is attached to it."""

    def deliver(self, result: ingest_pb2.Result, command: fleet_pb2.Command | None) -> None:
        """Take a result of a frame that has just been completed, and what to ask of the device."""

    def supersede(self) -> None:
        """Another stream has taken the session over."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How much of sessions is remembered, over the whole process unless it says otherwise.

    ``window`` frames a session are known by their own number; older ones count as accepted.
    """

    max_sessions: int = 1024
    window: int = 4096
    kept_results: int = 64
    kept_result_bytes: int = 64 * 2**20
    kept_frames: int = 64
    kept_frame_bytes: int = 128 * 2**20


@dataclass(slots=True, eq=False)
class Session:
    """One device's numbering of frames."""

    key: SessionKey
    window: int
    outlet: Outlet | None = None
    in_flight: int = 0
    last_result_id: int = 0
    # Every sequence up to here counts as accepted; those above it are listed one by one.
    floor: int = 0
    accepted_above: set[int] = field(default_factory=set)
    # Version by version, what was accepted of recent frames, with the result once there is one.
    outcomes: OrderedDict[tuple[int, Version], int | None] = field(default_factory=OrderedDict)

    @property
    def resume_after_sequence(self) -> int:
        """All frames up to this one were accepted."""
        return self.floor

    def knows(self, sequence: int, version: Version) -> bool:
        """Whether this frame was accepted before, at this bundle's state."""
        return (sequence, version) in self.outcomes

    def accepted(self, sequence: int) -> bool:
        """Whether this frame was accepted before, at any state."""
        return sequence <= self.floor or sequence in self.accepted_above

    def accept(self, sequence: int, version: Version) -> None:
        """Remember that the frame will be processed."""
        if not self.accepted(sequence):
            self.accepted_above.add(sequence)
            if sequence - self.floor > self.window:
                # Frames that a client skips for good must not hold the floor down for ever.
                self.floor = sequence - self.window
                self.accepted_above = {n for n in self.accepted_above if n > self.floor}
            while self.floor + 1 in self.accepted_above:
                self.floor += 1
                self.accepted_above.remove(self.floor)
        self.outcomes[sequence, version] = None
        if len(self.outcomes) > self.window:
            self.outcomes.popitem(last=False)
        self.in_flight += 1

    def result_id(self, sequence: int, version: Version) -> int | None:
        """Number of the frame's result; None while it is in flight or was forgotten."""
        return self.outcomes.get((sequence, version))


class SessionRegistry:
    """The sessions of this process, least recently used first."""

    def __init__(self, limits: SessionLimits | None = None) -> None:
        self._limits = limits or SessionLimits()
        self._sessions: OrderedDict[SessionKey, Session] = OrderedDict()
        self._results: OwnedCache[ingest_pb2.Result] = OwnedCache(
            max_bytes=self._limits.kept_result_bytes,
            max_entries_per_owner=self._limits.kept_results,
        )
        self._frames: OwnedCache[tuple[Bitstream, ...]] = OwnedCache(
            max_bytes=self._limits.kept_frame_bytes,
            max_entries_per_owner=self._limits.kept_frames,
        )

    def __len__(self) -> int:
        return len(self._sessions)

    def attach(self, key: SessionKey, outlet: Outlet) -> Session:
        """The session, new or known, with ``outlet`` in place of the one it had."""
        session = self._sessions.pop(key, None) or Session(key, self._limits.window)
        self._sessions[key] = session
        if session.outlet is not None:
            session.outlet.supersede()
        session.outlet = outlet
        self._forget_old_sessions()
        return session

    def detach(self, session: Session, outlet: Outlet) -> None:
        """``outlet`` is gone; results wait in the session for the next one."""
        if session.outlet is outlet:
            session.outlet = None

    def keep_frame(
        self, session: Session, sequence: int, bitstreams: tuple[Bitstream, ...]
    ) -> None:
        """Keep a frame's layers, of all its bundles, for a refinement that may follow."""
        size_bytes = sum(bitstream.file_bytes for bitstream in bitstreams)
        self._frames.put(session.key, sequence, bitstreams, size_bytes)

    def frame(self, session: Session, sequence: int) -> tuple[Bitstream, ...] | None:
        """Layers that were kept; None when they were dropped."""
        return self._frames.get(session.key, sequence)

    def complete(
        self,
        session: Session,
        sequence: int,
        version: Version,
        result: ingest_pb2.Result,
        command: fleet_pb2.Command | None = None,
    ) -> None:
        """Number the result, keep it, and hand it to the stream that is attached now.

        ``command`` goes with it when there is a stream, and is dropped when there is none.
        """
        session.in_flight -= 1
        session.last_result_id += 1
        result.result_id = session.last_result_id
        if (sequence, version) in session.outcomes:
            session.outcomes[sequence, version] = result.result_id
        self._results.put(session.key, result.result_id, result, result.ByteSize())
        if session.outlet is not None:
            session.outlet.deliver(result, command)

    def kept_result(self, session: Session, result_id: int) -> ingest_pb2.Result | None:
        """A result that was kept; None when it was dropped."""
        return self._results.get(session.key, result_id)

    def results_after(self, session: Session, result_id: int) -> Iterator[ingest_pb2.Result]:
        """Kept results with a larger number, in order."""
        for number, result in self._results.values(session.key):
            if number > result_id:
                yield result

    def _forget_old_sessions(self) -> None:
        idle = [s for s in self._sessions.values() if s.outlet is None and s.in_flight == 0]
        for session in idle[: max(0, len(self._sessions) - self._limits.max_sessions)]:
            del self._sessions[session.key]
            self._results.drop_owner(session.key)
            self._frames.drop_owner(session.key)

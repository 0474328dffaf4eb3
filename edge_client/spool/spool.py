"""The spool: what is queued, sent, acknowledged and answered, and the session that it belongs to.

    put ──> queued ──mark_sent──> sent ──acknowledge──> awaited ──finish──> gone
              │                     │                                        ▲
              └── dropped: full, age, damaged        rejected, renewed ──────┘

A spool has one session. Its name and its next sequence live here, so that a restarted process goes
on with the numbering that the server knows. All methods may be called from any thread.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from google.protobuf.message import DecodeError

from edge_client.spool.clock import UptimeSource, system_uptime
from edge_client.spool.coarsen import can_coarsen
from edge_client.spool.ledger import Ledger
from edge_client.spool.room import (
    SpoolLimits,
    SpoolPolicy,
    coarsen,
    drop_oldest,
    finest_state,
)
from shared.errors import SpoolError
from shared.proto.featherwire.v1 import ingest_pb2


@dataclass(frozen=True, slots=True)
class Queued:
    """A frame as it will be sent; ``default_tasks``: all that the server has for it."""

    sequence: int
    message: ingest_pb2.Frame
    default_tasks: bool
    source: str


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """``frames`` and ``payload_bytes`` wait for the server; ``awaited`` for their results.

    ``counts``: since the spool was made, by reason: put, acknowledged, coarsened, dropped_full,
    dropped_age, dropped_damaged, refused_full, refused_disk_full, ..., damaged_files.
    """

    frames: int
    payload_bytes: int
    awaited: int
    oldest_age_s: float
    counts: dict[str, int]


class Spool(Ledger):
    """A folder with unacknowledged frames. One process at a time."""

    @classmethod
    def open(
        cls,
        folder: str | Path,
        limits: SpoolLimits | None = None,
        *,
        uptime: UptimeSource = system_uptime,
    ) -> Spool:
        """Open or create a spool. A damaged file is moved aside, and counted.

        limits: None is those with which it was last opened.

        Raises ``SpoolError``: in_use, not_writable, disk_full, io_error, unsupported_version.
        """
        return cls(Path(folder), limits, uptime)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def stats(self) -> SpoolStats:
        """How full the spool is, and what became of frames."""
        with self._lock:
            ((frames, oldest),) = self._rows("SELECT COUNT(*), MIN(at_s) FROM frames")
            ((awaited,),) = self._rows("SELECT COUNT(*) FROM awaited")
            age_s = 0.0 if oldest is None else max(0.0, self._clock.now() - oldest)
            if self._undone:  # some have left, and only their deletion is due
                frames = len(self.queued())
            return SpoolStats(frames, self._bytes, awaited, age_s, dict(self._counts))

    # -- in --------------------------------------------------------------------------------------

    def put(
        self, message: ingest_pb2.Frame, *, source: str = "", default_tasks: bool = False
    ) -> int:
        """Queue a frame; it is on the disk when this returns its sequence.

        Other frames may be dropped or made coarser for it. Raises ``SpoolError``: spool_full with
        the policy ``newest``, frame_too_large, disk_full, not_writable, io_error; the frame is not
        queued then, and counted.
        """

        def write() -> int:
            sequence = self._last_sequence + 1
            message.sequence = sequence
            data = message.SerializeToString()
            self._drop_old()
            self._require_room(len(data))
            self._database.execute(
                "INSERT INTO frames (sequence, message, bytes, default_tasks, source, at_s, state,"
                " coarsest) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                sequence,
                data,
                len(data),
                default_tasks,
                source,
                self._clock.now(),
                finest_state(message),
                not can_coarsen(message),
            )
            self._bytes += len(data)
            self._make_room(sequence, len(data))
            self._set("last_sequence", sequence)
            self._last_sequence = sequence
            self._counts["put"] += 1
            return sequence

        try:
            written: int = self._write(write, durable=True)
        except SpoolError as error:
            self._counts[f"refused_{error.reason.removeprefix('spool_')}"] += 1
            raise
        return written

    # -- out -------------------------------------------------------------------------------------

    def next_after(self, sequence: int) -> Queued | None:
        """The next queued frame in order; a damaged one is dropped, and counted."""
        while True:
            with self._lock:
                rows = self._rows(
                    "SELECT sequence, message, default_tasks, source FROM frames "
                    "WHERE sequence > ? ORDER BY sequence LIMIT 1",
                    sequence,
                )
                rows = [row for row in rows if row[0] not in self._undone]
            if not rows:
                return self._after_undone(sequence)
            ((found, data, default_tasks, source),) = rows
            try:
                message = ingest_pb2.Frame.FromString(data)
                if message.sequence == found:
                    return Queued(found, message, bool(default_tasks), source)
            except DecodeError:
                pass
            self._drop_damaged(found, source)

    def take(self, sequence: int) -> Queued | None:
        """A queued frame that is about to be sent: it is not made coarser from now on.

        None when it has left meanwhile.
        """
        with self._lock:
            queued = self.next_after(sequence - 1)
            if queued is None or queued.sequence != sequence:
                return None
            self._write_later(
                lambda: self._database.execute(
                    "UPDATE frames SET sent = 1 WHERE sequence = ? AND sent = 0", sequence
                )
            )
            return queued

    def acknowledge(self, sequence: int) -> bool:
        """The server has the frame: its bytes leave, and its result is awaited.

        Returns whether it was here. A disk that fails does not hinder: it is done later.
        """
        with self._lock:
            here = bool(self._rows("SELECT 1 FROM frames WHERE sequence = ?", sequence))
            if not here or sequence in self._undone:
                return False
            try:
                self._write(lambda: self._await_result(sequence), durable=False)
            except SpoolError as error:
                self._counts[f"unwritten_{error.reason}"] += 1
                self._undone[sequence] = "acknowledged"
            return True

    def acknowledge_through(self, sequence: int) -> list[int]:
        """``acknowledge`` all frames up to this one; returns those that were here."""
        with self._lock:
            rows = self._rows("SELECT sequence FROM frames WHERE sequence <= ?", sequence)
        return [found for (found,) in rows if self.acknowledge(found)]

    def awaited(self) -> dict[int, str]:
        """Sources of the frames whose results are still to come, by sequence."""
        with self._lock:
            return dict(self._rows("SELECT sequence, source FROM awaited ORDER BY sequence"))

    def queued(self) -> dict[int, str]:
        """Sources of the frames that no server has acknowledged, by sequence."""
        with self._lock:
            rows = self._rows("SELECT sequence, source FROM frames ORDER BY sequence")
            return {found: source for found, source in rows if found not in self._undone}

    # -- results ---------------------------------------------------------------------------------

    def finish(self, sequence: int, result_id: int = 0) -> bool:
        """A frame's result was handed to the caller; ``result_id`` 0 is a result without a number.

        Returns whether it was still awaited: False says that it had been handed over before.
        """

        def write() -> None:
            self._count("answered", self._remove(sequence))
            self._database.execute("DELETE FROM awaited WHERE sequence = ?", sequence)
            if moved:
                self._set("last_result", self._last_result)

        with self._lock:
            moved = self._note_result(result_id)
            known = sequence not in self._finished and bool(
                self._rows("SELECT 1 FROM awaited WHERE sequence = ?", sequence)
                or self._rows("SELECT 1 FROM frames WHERE sequence = ?", sequence)
            )
            try:
                self._write(write, durable=False)
            except SpoolError as error:
                self._counts[f"unwritten_{error.reason}"] += 1
                self._undone[sequence] = "answered"
                self._finished.add(sequence)
            return known

    def note_result(self, result_id: int) -> None:
        """A result was handed over that is not a frame's last word, or not for the first time."""
        with self._lock:
            if self._note_result(result_id):
                self._write_later(lambda: self._set("last_result", self._last_result))

    def renew(self) -> str:
        """A new session for the frames that are queued, which are numbered again from 1.

        For a server that knows more of the session than this spool does, as after a backup was
        restored. Returns the session's name.
        """

        def write() -> str:
            rows = self._rows("SELECT sequence, message FROM frames ORDER BY sequence")
            for number, (sequence, data) in enumerate(rows, 1):
                message = ingest_pb2.Frame.FromString(data)
                message.sequence = number
                self._database.execute(
                    "UPDATE frames SET sequence = ?, message = ?, sent = 0 WHERE sequence = ?",
                    number,
                    message.SerializeToString(),
                    sequence,
                )
            self._database.execute("DELETE FROM awaited")
            self._set("session", session := uuid.uuid4().hex)
            self._set("last_sequence", len(rows))
            self._set("last_result", 0)
            self._counts["renewed"] += 1
            return session

        with self._lock:
            self._write(write, durable=True)
            self._load()
            return self._session

    def expire(self) -> None:
        """Drop what is older than the limit."""
        self._write_later(self._drop_old)

    # -- parts -----------------------------------------------------------------------------------

    def _require_room(self, size: int) -> None:
        limits = self._limits
        if limits.policy is SpoolPolicy.NEWEST and self._bytes + size > limits.max_bytes:
            raise SpoolError("spool_full", f"the spool has its {limits.max_bytes} bytes")
        if limits.policy is SpoolPolicy.OLDEST and size > limits.max_bytes:
            raise _too_large(size, limits)

    def _make_room(self, sequence: int, size: int) -> None:
        excess = self._bytes - self._limits.max_bytes
        if excess > 0 and self._limits.policy is SpoolPolicy.COARSEN:
            cuts, freed = coarsen(self._database, excess)
            self._count("coarsened", cuts)
            self._bytes -= freed
            excess -= freed
        if excess > 0:
            dropped, freed = drop_oldest(self._database, excess)
            self._bytes -= freed
            if any(row[0] == sequence for row in dropped):
                raise _too_large(size, self._limits)
            self._count_dropped(dropped, "full", "the spool was full")

    def _after_undone(self, sequence: int) -> Queued | None:
        """The next frame beyond one that has left, but could not be deleted yet."""
        beyond = [undone for undone in self._undone if undone > sequence]
        return self.next_after(min(beyond)) if beyond else None


def _too_large(size: int, limits: SpoolLimits) -> SpoolError:
    return SpoolError(
        "frame_too_large", f"a frame of {size} bytes does not fit into {limits.max_bytes}"
    )

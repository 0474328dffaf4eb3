"""The spool: what is queued, sent, acknowledged and answered, and the session that it belongs to.

    put ──> queued ──mark_sent──> sent ──acknowledge──> awaited ──finish──> gone
              │                     │                                        ▲
              └── dropped: full, age, damaged        rejected, renewed ──────┘

A spool has one session. Its name and its next sequence live here, so that a restarted process goes
on with the numbering that the server knows. All methods may be called from any thread.

What is in memory (session, numbering, clock, counts) is in the file too, and read from there when
it is opened, or replaced after damage: a damaged file is moved aside, and a full disk is no end.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from edge_client.spool.clock import SpoolClock, Uptime, UptimeSource, system_uptime
from edge_client.spool.database import Damaged, move_aside, open_healed
from edge_client.spool.room import (
    Dropped,
    Row,
    SpoolLimits,
    SpoolPolicy,
    can_coarsen,
    coarsen,
    drop_old,
    drop_oldest,
    finest_state,
    refer_anew,
)
from shared.errors import SpoolError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.words import counted

T = TypeVar("T")


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


class Spool:
    """A folder with unacknowledged frames. One process at a time."""

    def __init__(
        self, folder: Path, limits: SpoolLimits | None, uptime: UptimeSource = system_uptime
    ) -> None:
        """Use ``open``."""
        self.folder = folder
        self._given_limits = limits
        self._limits = limits or SpoolLimits()
        self._uptime = uptime
        self._dropped: list[Dropped] = []
        # What could not be written, because the disk is full: done with the next write.
        self._undone: dict[int, str] = {}
        self._finished: set[int] = set()
        self._bytes = 0
        self._device: str | None = None
        self._last_sequence = 0
        self._last_result = 0
        self._lock = threading.RLock()
        self._writing = False
        self._database, damaged = open_healed(folder)
        self._counts: Counter[str] = Counter(damaged_files=damaged)
        self._load()

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

    def close(self) -> None:
        """Close the file; other processes may open it then."""
        with self._lock:
            self._database.close()

    # -- facts ------------------------------------------------------------------------------------

    @property
    def session(self) -> str:
        """Name of the session that the frames belong to; another one after damage or ``renew``."""
        return self._session

    @property
    def device(self) -> str | None:
        """The device whose frames these are; None until one has been named to ``claim``."""
        return self._device

    def claim(self, device: str | None, host: str) -> str:
        """The device as which the frames are sent: the first one that was named.

        device: None is the one that the spool knows, or ``host`` where it knows none. Raises
        ``SpoolError("other_device")`` when the frames are those of another.
        """
        with self._lock:
            if self._device is None:
                name = device or host
                if device is None and self._last_sequence:
                    logging.getLogger(__name__).warning(
                        "warning: %s does not say whose frames it has; they go as %s, and --device "
                        "names another", self.folder, host,
                    )  # fmt: skip
                self._write(lambda: self._set("device", name), durable=True)
                self._device = name
            elif device not in (None, self._device):
                raise SpoolError(
                    "other_device",
                    f"{self.folder} has the frames of device {self._device}, and is not for "
                    f"{device}: leave --device out, name another folder, or give the spool over to "
                    f"{device} with --rename",
                    device=self._device,
                )
            return self._device

    def rename(self, device: str) -> None:
        """Give the spool over to another device: its frames go as that one, in a new session.

        Raises ``SpoolError("frames_under_way")`` while a server may have some of them already,
        which would then be two devices' frames.
        """
        with self._lock:
            if device == self._device:
                return
            ((sent,),) = self._rows("SELECT COUNT(*) FROM frames WHERE sent = 1")
            ((awaited,),) = self._rows("SELECT COUNT(*) FROM awaited")
            if sent + awaited:
                raise SpoolError(
                    "frames_under_way",
                    f"a server may have {counted(sent + awaited, 'frame')} of {self.folder} as "
                    f"device {self._device} already: `featherwire-edge flush --spool {self.folder}`"
                    " brings their results, and after that it can be given another name",
                )
            self._renew(device)

    @property
    def last_sequence(self) -> int:
        """The highest sequence that was given to a frame."""
        return self._last_sequence

    def setting(self, name: str) -> Any:
        """A JSON value that was kept with ``keep``; None when there is none."""
        with self._lock:
            return json.loads(self._meta(f"setting.{name}", "null"))

    def keep(self, name: str, value: Any) -> None:
        """Keep a JSON value over restarts. Raises ``SpoolError``."""

        def write() -> None:
            self._set(f"setting.{name}", json.dumps(value))

        self._write(write, durable=True)

    def take_dropped(self) -> list[Dropped]:
        """Frames that were dropped since the last call."""
        with self._lock:
            dropped, self._dropped = self._dropped, []
            return dropped

    @property
    def last_result_seen(self) -> int:
        """Every result up to this number was handed to the caller."""
        return self._last_result

    def stats(self) -> SpoolStats:
        """How full the spool is, and what became of frames."""
        with self._lock:
            ((frames, oldest),) = self._rows("SELECT COUNT(*), MIN(at_s) FROM frames")
            ((awaited,),) = self._rows("SELECT COUNT(*) FROM awaited")
            age_s = 0.0 if oldest is None else max(0.0, self._clock.now() - oldest)
            if self._undone:  # some have left, and only their deletion is due
                frames = len(self.queued())
            return SpoolStats(frames, self._bytes, awaited, age_s, dict(self._counts))

    # -- in ---------------------------------------------------------------------------------------

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
                "INSERT INTO frames (sequence, message, bytes, default_tasks, source, captured_us,"
                " at_s, state, coarsest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                sequence,
                data,
                len(data),
                default_tasks,
                source,
                _captured_us(message),
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
            return self._write(write, durable=True)
        except SpoolError as error:
            self._counts[f"refused_{error.reason.removeprefix('spool_')}"] += 1
            raise

    # -- out --------------------------------------------------------------------------------------

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
        """Note that the server has the frame: its bytes are deleted, and its result is awaited.

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

    def captured(self) -> dict[int, float]:
        """When pictures without a result were taken, by sequence: seconds since 1970."""
        with self._lock:
            rows = self._rows(
                "SELECT sequence, captured_us FROM frames WHERE captured_us IS NOT NULL UNION ALL "
                "SELECT sequence, captured_us FROM awaited WHERE captured_us IS NOT NULL"
            )
            return {found: captured_us / 1e6 for found, captured_us in rows}

    def queued(self) -> dict[int, str]:
        """Sources of the frames that no server has acknowledged, by sequence."""
        with self._lock:
            rows = self._rows("SELECT sequence, source FROM frames ORDER BY sequence")
            return {found: source for found, source in rows if found not in self._undone}

    # -- results ----------------------------------------------------------------------------------

    def finish(self, sequence: int, result_id: int = 0) -> bool:
        """Note that a frame's result was handed to the caller; ``result_id`` 0 is a result
        without a number.

        Returns whether it was still awaited; False when it had been handed over before.
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
        """Note a result that was handed to the caller but is not the frame's last, or came
        again."""
        with self._lock:
            if self._note_result(result_id):
                self._write_later(lambda: self._set("last_result", self._last_result))

    def renew(self) -> str:
        """Begin a new session with the queued frames, which are numbered again from 1.

        For a server that knows more of the session than this spool does, as after a backup was
        restored. Returns the session's name.
        """
        with self._lock:
            return self._renew(self._device)

    def _renew(self, device: str | None) -> str:
        def write() -> None:
            rows = self._rows("SELECT sequence, message FROM frames ORDER BY sequence")
            numbers = {sequence: number for number, (sequence, _) in enumerate(rows, 1)}
            for sequence, data in rows:
                number = numbers[sequence]
                message = ingest_pb2.Frame.FromString(data)
                message.sequence = number
                refer_anew(message, sequence, numbers)
                self._database.execute(
                    "UPDATE frames SET sequence = ?, message = ?, sent = 0 WHERE sequence = ?",
                    number,
                    message.SerializeToString(),
                    sequence,
                )
            self._database.execute("DELETE FROM awaited")
            self._set("session", uuid.uuid4().hex)
            if device is not None:
                self._set("device", device)
            self._set("last_sequence", len(rows))
            self._set("last_result", 0)
            self._counts["renewed"] += 1

        self._write(write, durable=True)
        self._load()
        return self._session

    def expire(self) -> None:
        """Drop frames that are older than the limit."""
        self._write_later(self._drop_old)

    # -- room -------------------------------------------------------------------------------------

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

    def _drop_old(self) -> None:
        if self._limits.max_age_s is None:
            return
        before_s = self._clock.now() - self._limits.max_age_s
        rows = drop_old(self._database, before_s)
        if rows:
            self._bytes = self._rows("SELECT COALESCE(SUM(bytes), 0) FROM frames")[0][0]
            self._count_dropped(rows, "age", f"it waited {self._limits.max_age_s:g} s")

    def _drop_damaged(self, sequence: int, source: str) -> None:
        def write() -> None:
            self._remove(sequence)
            self._count_dropped([(sequence, source)], "damaged", "its bytes were damaged")

        self._write(write, durable=False)

    def _count_dropped(self, rows: list[Row], reason: str, why: str) -> None:
        self._counts[f"dropped_{reason}"] += len(rows)
        for sequence, source in rows:
            error = SpoolError(f"dropped_{reason}", f"frame {sequence} was dropped: {why}")
            self._dropped.append(Dropped(sequence, source, error))

    def _remove(self, sequence: int) -> int:
        rows = self._rows("SELECT bytes FROM frames WHERE sequence = ?", sequence)
        self._database.execute("DELETE FROM frames WHERE sequence = ?", sequence)
        self._bytes -= rows[0][0] if rows else 0
        return len(rows)

    def _await_result(self, sequence: int) -> None:
        self._database.execute(
            "INSERT OR IGNORE INTO awaited SELECT sequence, source, bytes, captured_us FROM frames "
            "WHERE sequence = ?",
            sequence,
        )
        self._count("acknowledged", self._remove(sequence))

    def _before_write(self) -> None:
        """In every transaction, first: what an earlier one could not write."""
        for sequence, count in self._undone.items():
            if count == "acknowledged":
                self._await_result(sequence)
            else:
                self._count(count, self._remove(sequence))
                self._database.execute("DELETE FROM awaited WHERE sequence = ?", sequence)

    def _after_undone(self, sequence: int) -> Queued | None:
        """The next frame beyond one that has left, but could not be deleted yet."""
        beyond = [undone for undone in self._undone if undone > sequence]
        return self.next_after(min(beyond)) if beyond else None

    def _note_result(self, result_id: int) -> bool:
        """Move the mark below which all results were seen; they may come out of order."""
        before = self._last_result
        if result_id > before:
            self._seen_above.add(result_id)
        while self._last_result + 1 in self._seen_above:
            self._last_result += 1
            self._seen_above.remove(self._last_result)
        return self._last_result != before

    # -- memory and file --------------------------------------------------------------------------

    def _load(self) -> None:
        """Read what is in memory from a file that was just opened."""
        self._undone.clear()
        self._finished.clear()
        saved = Counter(json.loads(self._meta("counts", "{}")))
        saved["damaged_files"] += self._counts["damaged_files"]
        self._counts = +saved
        at = Uptime(str(self._meta("clock_boot", "")), float(self._meta("clock_uptime_s", 0.0)))
        self._clock = SpoolClock(self._uptime, float(self._meta("clock_s", 0.0)), at)
        self._session = str(self._meta("session", ""))
        self._last_sequence = int(self._meta("last_sequence", 0))
        self._last_result = int(self._meta("last_result", 0))
        self._seen_above: set[int] = set()
        self._bytes = int(self._rows("SELECT COALESCE(SUM(bytes), 0) FROM frames")[0][0])
        self._device = self._meta("device", None) or self._device
        if not self._session:  # a new file, perhaps in the place of a damaged one
            self._session = uuid.uuid4().hex
            self._write(self._name_session, durable=True)
        saved_limits = json.loads(self._meta("limits", "null"))
        if self._given_limits is None and saved_limits is not None:
            self._limits = SpoolLimits(
                saved_limits["max_bytes"],
                saved_limits["max_age_s"],
                SpoolPolicy(saved_limits["policy"]),
            )
        elif (limits := asdict(self._limits)) != saved_limits:
            self._write_later(lambda: self._set("limits", json.dumps(limits)))

    def _name_session(self) -> None:
        self._set("session", self._session)
        if self._device is not None:
            self._set("device", self._device)

    def _undo(self) -> Callable[[], None]:
        """What takes memory back to this moment, when a transaction fails."""
        before = (self._bytes, self._last_sequence, Counter(self._counts))
        dropped = len(self._dropped)

        def undo() -> None:
            self._bytes, self._last_sequence, self._counts = before
            del self._dropped[dropped:]

        return undo

    def _after_write(self) -> None:
        """In every transaction, last: clock and counts."""
        at = self._clock.uptime()
        self._set("clock_s", self._clock.now())
        self._set("clock_boot", at.boot)
        self._set("clock_uptime_s", at.seconds)
        self._set("counts", json.dumps(self._counts))

    # -- reading and writing ----------------------------------------------------------------------

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._database.rows(statement, *values)
        except Damaged as damage:
            if self._writing:
                raise  # the transaction begins again in a new file
            self._begin_anew(damage)
            return self._database.rows(statement, *values)

    def _meta(self, key: str, default: Any) -> Any:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return rows[0][0] if rows else default

    def _set(self, key: str, value: object) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)

    def _write(self, write: Callable[[], T], *, durable: bool) -> T:
        """Run ``write`` in a transaction, in a new file when this one turns out to be damaged.

        What is not durable frees room, or takes next to none: it may use the reserve.
        """
        with self._lock:
            try:
                result = self._attempt(write, durable=durable)
            except Damaged as damage:
                self._begin_anew(damage)
                try:
                    return self._attempt(write, durable=durable)
                except Damaged as again:
                    raise SpoolError("io_error", f"the spool is damaged: {again}") from None
            except SpoolError as error:
                if error.reason not in {"disk_full", "io_error"}:
                    raise
                self._database.relieve(spend_reserve=not durable)
                result = self._attempt(write, durable=durable)
            if durable:
                self._database.restore_reserve()
            return result

    def _attempt(self, write: Callable[[], T], *, durable: bool) -> T:
        """Commit ``write``, or leave everything as it was."""
        undo = self._undo()
        self._writing = True
        try:
            with self._database.transaction(durable=durable):
                self._before_write()
                result = write()
                self._after_write()
        except BaseException:
            undo()
            raise
        finally:
            self._writing = False
        self._undone.clear()
        self._finished.clear()
        return result

    def _write_later(self, write: Callable[[], object]) -> None:
        """Like ``_write``, for what a disk that fails may not hinder, and what may be lost."""
        try:
            self._write(write, durable=False)
        except SpoolError as error:
            with self._lock:
                self._counts[f"unwritten_{error.reason}"] += 1

    def _count(self, what: str, number: int = 1) -> None:
        if number:
            self._counts[what] += number

    def _begin_anew(self, damage: Damaged) -> None:
        """The file was damaged while in use: another one and another session take its place."""
        lost = self._counts["damaged_files"] + 1
        logging.getLogger(__name__).warning("warning: the spool was damaged in use: %s", damage)
        self._database.close()
        where = move_aside(self.folder)
        logging.getLogger(__name__).warning("warning: it is kept as %s", where)
        self._database, damaged = open_healed(self.folder)
        lost += damaged
        self._counts = Counter(damaged_files=lost)
        self._load()
        self._counts["damaged_files"] = lost


def _captured_us(message: ingest_pb2.Frame) -> int | None:
    return message.captured_at.ToMicroseconds() if message.HasField("captured_at") else None


def _too_large(size: int, limits: SpoolLimits) -> SpoolError:
    return SpoolError(
        "frame_too_large", f"a frame of {size} bytes does not fit into {limits.max_bytes}"
    )

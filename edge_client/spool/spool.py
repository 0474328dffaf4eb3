"""The spool: what is queued, sent, acknowledged and answered, and the session that it belongs to.

    put ──> queued ──mark_sent──> sent ──acknowledge──> awaited ──finish──> gone
              │                     │                                        ▲
              └── dropped: full, age, damaged        rejected, renewed ──────┘

A spool has one session. Its name and its next sequence live here, so that a restarted process goes
on with the numbering that the server knows. All methods may be called from any thread.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from google.protobuf.message import DecodeError

from edge_client.spool.clock import UptimeSource, system_uptime
from edge_client.spool.database import Damaged
from edge_client.spool.file import SpoolFile
from edge_client.spool.groups import chain, keep, number_anew, placed, release
from edge_client.spool.losses import Losses
from edge_client.spool.records import Queued, SeenResults, SpoolStats, captured_us
from edge_client.spool.room import (
    Dropped,
    Reached,
    SpoolLimits,
    SpoolPolicy,
    can_coarsen,
    finest_state,
)
from shared.errors import SpoolError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.words import counted


class Spool:
    """A folder with unacknowledged frames. One process at a time."""

    def __init__(
        self, folder: Path, limits: SpoolLimits | None, uptime: UptimeSource = system_uptime
    ) -> None:
        """Use ``open``."""
        self.folder = folder
        self._given_limits = limits
        # What could not be written, because the disk is full: done with the next write.
        self._undone: dict[int, str] = {}
        self._finished: set[int] = set()
        self._device: str | None = None
        self._seen = SeenResults(0)
        self._file = SpoolFile(
            folder,
            uptime,
            opened=self._load,
            first=self._before_write,
            committed=self._after_write,
        )
        self._losses = Losses(self._file, limits or SpoolLimits())
        self._file.load()
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
        self._file.close()

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
        with self._file.lock:
            if self._device is None:
                name = device or host
                if device is None and self._file.last_sequence:
                    logging.getLogger(__name__).warning(
                        "warning: %s does not say whose frames it has; they go as %s, and --device "
                        "names another", self.folder, host,
                    )  # fmt: skip
                self._file.write(lambda: self._file.set("device", name), durable=True)
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
        with self._file.lock:
            if device == self._device:
                return
            ((sent,),) = self._file.rows("SELECT COUNT(*) FROM frames WHERE sent = 1")
            ((awaited,),) = self._file.rows("SELECT COUNT(*) FROM awaited")
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
        return self._file.last_sequence

    def setting(self, name: str) -> Any:
        """A JSON value that was kept with ``keep``; None when there is none."""
        with self._file.lock:
            return json.loads(self._file.meta(f"setting.{name}", "null"))

    def keep(self, name: str, value: Any) -> None:
        """Keep a JSON value over restarts. Raises ``SpoolError``."""

        def write() -> None:
            self._file.set(f"setting.{name}", json.dumps(value))

        self._file.write(write, durable=True)

    def take_dropped(self) -> list[Dropped]:
        """Frames that were dropped since the last call."""
        with self._file.lock:
            dropped, self._file.dropped = self._file.dropped, []
            return dropped

    @property
    def last_result_seen(self) -> int:
        """Every result up to this number was handed to the caller."""
        return self._seen.last

    def stats(self) -> SpoolStats:
        """How full the spool is, and what became of frames."""
        with self._file.lock:
            ((frames, oldest),) = self._file.rows("SELECT COUNT(*), MIN(at_s) FROM frames")
            ((awaited,),) = self._file.rows("SELECT COUNT(*) FROM awaited")
            age_s = 0.0 if oldest is None else max(0.0, self._file.clock.now() - oldest)
            if self._undone:  # some have left, and only their deletion is due
                frames = len(self.queued())
            return SpoolStats(frames, self._file.bytes, awaited, age_s, dict(self._file.counts))

    # -- in ---------------------------------------------------------------------------------------

    @property
    def wants_key_frame(self) -> bool:
        """Whether the newest group is long enough: the next frame shall stand alone."""
        newest = self._file.newest
        return newest is None or newest.is_long(self._losses.limits, self._file.clock.now())

    @property
    def newest(self) -> tuple[int, Mapping[bytes, Reached] | None]:
        """The sequence of the frame that was put last by this process, and what there is of it by
        its bundles (short ids); None where nothing can refer to it."""
        newest = self._file.newest
        if newest is None or not newest.grows:
            return self._file.last_sequence, None
        return newest.sequence, newest.reached

    def chain(self, sequence: int) -> list[ingest_pb2.Frame]:
        """What a queued frame is decoded with: its group from the key frame up to itself, as far
        as that is here."""
        with self._file.lock:
            try:
                return chain(self._file.database, sequence)
            except (DecodeError, Damaged):
                return []

    def put(
        self,
        message: ingest_pb2.Frame,
        *,
        source: str = "",
        default_tasks: bool = False,
        grows: bool = False,
    ) -> int:
        """Queue a frame; it is on the disk when this returns its sequence.

        grows: the next one may refer to it. Other frames may be dropped or made coarser for it.
        Raises ``SpoolError``: spool_full with the policy ``newest``, frame_too_large, disk_full,
        not_writable, io_error; the frame is not queued then, and counted; needs_key_frame for a
        predicted frame that is refused where one that stands alone would not be.
        """

        def write() -> int:
            sequence = self._file.last_sequence + 1
            message.sequence = sequence
            data = message.SerializeToString()
            self._losses.drop_old()
            self._losses.require_room(len(data))
            before, size, now_s = self._file.newest, len(data), self._file.clock.now()
            self._file.newest = placed(message, before, grows=grows, size=size, now_s=now_s)
            self._file.database.execute(
                "INSERT INTO frames (sequence, message, bytes, default_tasks, source, captured_us,"
                " at_s, state, coarsest, first, grows) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                sequence,
                data,
                len(data),
                default_tasks,
                source,
                captured_us(message),
                self._file.clock.now(),
                finest_state(message),
                not can_coarsen(message),
                self._file.newest.first,
                grows,
            )
            if before is not None and before.grows and before.first != self._file.newest.first:
                release(self._file.database, self._file.newest)
            self._file.bytes += len(data)
            self._losses.make_room(sequence, len(data))
            self._file.set("last_sequence", sequence)
            self._file.last_sequence = sequence
            self._file.counts["put"] += 1
            return sequence

        try:
            return self._file.write(write, durable=True)
        except SpoolError as error:
            if error.reason != "needs_key_frame":
                self._file.counts[f"refused_{error.reason.removeprefix('spool_')}"] += 1
            raise

    # -- out --------------------------------------------------------------------------------------

    def next_after(self, sequence: int) -> Queued | None:
        """The next queued frame in order; a damaged one is dropped, and counted."""
        while True:
            with self._file.lock:
                rows = self._file.rows(
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
            self._losses.drop_damaged(found)

    def take(self, sequence: int) -> Queued | None:
        """A queued frame that is about to be sent: it is not made coarser from now on.

        None when it has left meanwhile.
        """
        with self._file.lock:
            queued = self.next_after(sequence - 1)
            if queued is None or queued.sequence != sequence:
                return None
            self._file.write_later(
                lambda: self._file.database.execute(
                    "UPDATE frames SET sent = 1 WHERE sequence = ? AND sent = 0", sequence
                )
            )
            return queued

    def acknowledge(self, sequence: int) -> bool:
        """Note that the server has the frame: its bytes are deleted, and its result is awaited.

        Returns whether it was here. A disk that fails does not hinder: it is done later.
        """
        with self._file.lock:
            here = bool(self._file.rows("SELECT 1 FROM frames WHERE sequence = ?", sequence))
            if not here or sequence in self._undone:
                return False
            try:
                self._file.write(lambda: self._await_result(sequence), durable=False)
            except SpoolError as error:
                self._file.counts[f"unwritten_{error.reason}"] += 1
                self._undone[sequence] = "acknowledged"
            return True

    def acknowledge_through(self, sequence: int) -> list[int]:
        """``acknowledge`` all frames up to this one; returns those that were here."""
        with self._file.lock:
            rows = self._file.rows("SELECT sequence FROM frames WHERE sequence <= ?", sequence)
        return [found for (found,) in rows if self.acknowledge(found)]

    def awaited(self) -> dict[int, str]:
        """Sources of the frames whose results are still to come, by sequence."""
        with self._file.lock:
            return dict(self._file.rows("SELECT sequence, source FROM awaited ORDER BY sequence"))

    def captured(self) -> dict[int, float]:
        """When pictures without a result were taken, by sequence: seconds since 1970."""
        with self._file.lock:
            rows = self._file.rows(
                "SELECT sequence, captured_us FROM frames WHERE captured_us IS NOT NULL UNION ALL "
                "SELECT sequence, captured_us FROM awaited WHERE captured_us IS NOT NULL"
            )
            return {found: captured_us / 1e6 for found, captured_us in rows}

    def captured_at(self, sequence: int) -> float | None:
        """When the picture of a frame without a result was taken, in seconds since 1970; None where
        that is not known, or the frame is not here."""
        with self._file.lock:
            rows = self._file.rows(
                "SELECT captured_us FROM frames WHERE sequence = ? UNION ALL "
                "SELECT captured_us FROM awaited WHERE sequence = ?",
                sequence,
                sequence,
            )
            known = [captured_us for (captured_us,) in rows if captured_us is not None]
            return known[0] / 1e6 if known else None

    def queued(self) -> dict[int, str]:
        """Sources of the frames that no server has acknowledged, by sequence."""
        with self._file.lock:
            rows = self._file.rows("SELECT sequence, source FROM frames ORDER BY sequence")
            return {found: source for found, source in rows if found not in self._undone}

    # -- results ----------------------------------------------------------------------------------

    def finish(self, sequence: int, result_id: int = 0) -> bool:
        """Note that a frame's result was handed to the caller; ``result_id`` 0 is a result
        without a number.

        Returns whether it was still awaited; False when it had been handed over before.
        """

        def write() -> None:
            keep(self._file.database, sequence, self._file.newest)
            self._file.count("answered", self._remove(sequence))
            self._file.database.execute("DELETE FROM awaited WHERE sequence = ?", sequence)
            if moved:
                self._file.set("last_result", self._seen.last)

        with self._file.lock:
            moved = self._seen.note(result_id)
            known = sequence not in self._finished and bool(
                self._file.rows("SELECT 1 FROM awaited WHERE sequence = ?", sequence)
                or self._file.rows("SELECT 1 FROM frames WHERE sequence = ?", sequence)
            )
            try:
                self._file.write(write, durable=False)
            except SpoolError as error:
                self._file.counts[f"unwritten_{error.reason}"] += 1
                self._undone[sequence] = "answered"
                self._finished.add(sequence)
            return known

    def note_result(self, result_id: int) -> None:
        """Note a result that was handed to the caller but is not the frame's last, or came
        again."""
        with self._file.lock:
            if self._seen.note(result_id):
                self._file.write_later(lambda: self._file.set("last_result", self._seen.last))

    def renew(self) -> str:
        """Begin a new session with the queued frames, which are numbered again from 1.

        For a server that knows more of the session than this spool does, as after a backup was
        restored. Returns the session's name.
        """
        with self._file.lock:
            return self._renew(self._device)

    def _renew(self, device: str | None) -> str:
        def write() -> None:
            queued = number_anew(self._file.database)
            self._file.database.execute("DELETE FROM awaited")
            self._file.set("session", uuid.uuid4().hex)
            if device is not None:
                self._file.set("device", device)
            self._file.set("last_sequence", queued)
            self._file.set("last_result", 0)
            self._file.counts["renewed"] += 1

        self._file.write(write, durable=True)
        self._file.load()
        self._load()
        return self._session

    def expire(self) -> None:
        """Drop frames that are older than the limit."""
        self._file.write_later(self._losses.drop_old)

    # -- parts ------------------------------------------------------------------------------------

    def _remove(self, sequence: int) -> int:
        rows = self._file.rows("SELECT bytes FROM frames WHERE sequence = ?", sequence)
        self._file.database.execute("DELETE FROM frames WHERE sequence = ?", sequence)
        self._file.bytes -= rows[0][0] if rows else 0
        return len(rows)

    def _await_result(self, sequence: int) -> None:
        keep(self._file.database, sequence, self._file.newest)
        self._file.database.execute(
            "INSERT OR IGNORE INTO awaited SELECT sequence, source, bytes, captured_us FROM frames "
            "WHERE sequence = ?",
            sequence,
        )
        self._file.count("acknowledged", self._remove(sequence))

    def _before_write(self) -> None:
        """In every transaction, first: what an earlier one could not write."""
        for sequence, count in self._undone.items():
            if count == "acknowledged":
                self._await_result(sequence)
            else:
                keep(self._file.database, sequence, self._file.newest)
                self._file.count(count, self._remove(sequence))
                self._file.database.execute("DELETE FROM awaited WHERE sequence = ?", sequence)

    def _after_write(self) -> None:
        """After every transaction: that has been written, too."""
        self._undone.clear()
        self._finished.clear()

    def _after_undone(self, sequence: int) -> Queued | None:
        """The next frame beyond one that has left, but could not be deleted yet."""
        beyond = [undone for undone in self._undone if undone > sequence]
        return self.next_after(min(beyond)) if beyond else None

    def _load(self) -> None:
        """Read what is in memory from a file that was just opened."""
        file = self._file
        self._undone.clear()
        self._finished.clear()
        self._session = str(file.meta("session", ""))
        self._seen = SeenResults(int(file.meta("last_result", 0)))
        self._device = file.meta("device", None) or self._device
        if not self._session:  # a new file, perhaps in the place of a damaged one
            self._session = uuid.uuid4().hex
            file.write(self._name_session, durable=True)
        saved_limits = json.loads(file.meta("limits", "null"))
        if self._given_limits is None and saved_limits is not None:
            self._losses.limits = SpoolLimits(
                saved_limits["max_bytes"],
                saved_limits["max_age_s"],
                SpoolPolicy(saved_limits["policy"]),
            )
        elif (limits := asdict(self._losses.limits)) != saved_limits:
            file.write_later(lambda: file.set("limits", json.dumps(limits)))
        if file.rows("SELECT 1 FROM kept LIMIT 1"):
            file.write_later(lambda: release(file.database, None))

    def _name_session(self) -> None:
        self._file.set("session", self._session)
        if self._device is not None:
            self._file.set("device", self._device)

"""The spool's SQLite file: how it is opened, locked and written, and what its errors mean.

Journal mode is WAL, so that a reader and a kill at any moment find whole transactions. What may
not be lost (a new frame, its sequence, the session's name) is committed with ``synchronous=FULL``:
the log is on the disk before the call returns, and a power cut takes nothing. What may be lost (an
acknowledgement, that a frame was sent) is committed with ``synchronous=NORMAL``, without waiting
for the disk: a power cut then brings a frame back, which the server knows and does not process
again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import SpoolError
from shared.files import sync_folder, try_lock

FILE_NAME = "spool.sqlite3"
SCHEMA_VERSION = 3
"""1: without the times at which pictures were taken. 2: without groups of pictures."""

RESERVE_BYTES = 128 * 2**10
"""Of a file that is given up when the disk is full, so that frames can still be deleted."""

KEPT_DAMAGED = 3
"""Damaged files that are kept beside the spool; older ones are deleted."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE frames (
    sequence INTEGER PRIMARY KEY,
    message BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    default_tasks INTEGER NOT NULL,
    source TEXT NOT NULL,
    captured_us INTEGER,
    at_s REAL NOT NULL,
    state INTEGER NOT NULL,
    coarsest INTEGER NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0,
    first INTEGER NOT NULL DEFAULT 0,
    grows INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX frames_to_coarsen ON frames (state, sequence) WHERE coarsest = 0 AND sent = 0;
CREATE TABLE awaited (
    sequence INTEGER PRIMARY KEY, source TEXT NOT NULL, bytes INTEGER NOT NULL, captured_us INTEGER
);
"""
# first: the frame that begins its group. grows: a later frame may refer to it. kept: what a server
# has acknowledged, of groups from which frames wait, or which are not complete yet.
_GROUPS = """
CREATE INDEX frames_of_groups ON frames (first, sequence);
CREATE TABLE kept (sequence INTEGER PRIMARY KEY, first INTEGER NOT NULL, message BLOB NOT NULL);
"""
_TO_VERSION_2 = """
ALTER TABLE frames ADD COLUMN captured_us INTEGER;
ALTER TABLE awaited ADD COLUMN captured_us INTEGER;
"""
_TO_VERSION_3 = """
ALTER TABLE frames ADD COLUMN first INTEGER NOT NULL DEFAULT 0;
ALTER TABLE frames ADD COLUMN grows INTEGER NOT NULL DEFAULT 0;
UPDATE frames SET first = sequence;
"""


class Damaged(Exception):
    """The file is no SQLite database, or not a sound one."""


class Database:
    """The spool's file, open in one process under the folder's lock. Not thread-safe by itself."""

    def __init__(self, folder: Path) -> None:
        """Open or create. Raises ``SpoolError`` (in_use, not_writable, disk_full, io_error,
        unsupported_version), and ``Damaged``."""
        self.path = folder / FILE_NAME
        self._reserve = folder / "reserve"
        self._lock = _lock(folder)
        try:
            with _typed():
                # Statements are few and short, so one connection serves all threads in turn.
                self._connection = sqlite3.connect(
                    self.path, isolation_level=None, check_same_thread=False
                )
                self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and give the lock back."""
        with suppress(sqlite3.Error, AttributeError):
            self._connection.close()
        os.close(self._lock)
        self._lock = -1

    def rows(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """All rows of a SELECT."""
        with _typed():
            return self._connection.execute(statement, values).fetchall()

    def execute(self, statement: str, *values: object) -> int:
        """Run a statement inside ``transaction``; returns how many rows it changed."""
        with _typed():
            return self._connection.execute(statement, values).rowcount

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[None]:
        """Commit all that is executed inside, or nothing; ``durable`` waits for the disk."""
        with _typed():
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with _typed():
                self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def relieve(self, *, spend_reserve: bool) -> None:
        """Make a little room after a write has failed: write the log back, and, for what frees
        room itself, give up the file that was kept for this."""
        if spend_reserve:
            self._reserve.unlink(missing_ok=True)
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def restore_reserve(self) -> None:
        """Create the file that ``relieve`` gives up; without it deleting fails on a full disk."""
        if self._reserve.exists():
            return
        try:
            with open(self._reserve, "xb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError:
            self._reserve.unlink(missing_ok=True)

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA busy_timeout=2000")
        connection.execute("PRAGMA journal_mode=WAL")
        # The log is written back often, and cut short: on a small disk it would fill what is left.
        connection.execute("PRAGMA wal_autocheckpoint=64")
        connection.execute("PRAGMA journal_size_limit=262144")
        connection.execute("PRAGMA cache_size=-512")  # KiB: a device's memory is not for this
        connection.execute("PRAGMA synchronous=FULL")
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        if version == 0:
            self._run(_SCHEMA + _GROUPS)
            sync_folder(self.path.parent)
        elif version > SCHEMA_VERSION:
            raise SpoolError(
                "unsupported_version",
                f"{self.path} is of version {version}, and this release reads {SCHEMA_VERSION}",
            )
        else:
            checked = connection.execute("PRAGMA quick_check(1)").fetchall()
            if checked != [("ok",)]:
                raise Damaged(str(checked[0][0]))
            if version < SCHEMA_VERSION:
                older = _TO_VERSION_2 if version == 1 else ""
                self._run(older + _TO_VERSION_3 + _GROUPS)

    def _run(self, statements: str) -> None:
        """What makes a file one of this version, all of it or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, statements.split(";")):
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._connection.execute("COMMIT")


def open_healed(folder: Path) -> tuple[Database, int]:
    """Open the folder's database, or a new one where it is damaged; and how many files were
    damaged.

    A damaged file is moved aside. Raises as ``Database`` does, but for damage.
    """
    try:
        return Database(folder), 0
    except Damaged as damage:
        where = move_aside(folder)
        logging.getLogger(__name__).warning(
            "warning: the spool is damaged (%s); it is kept as %s, and a new one begins",
            damage,
            where,
        )
    try:
        return Database(folder), 1
    except Damaged as damage:
        raise SpoolError("io_error", f"a new spool is damaged at once: {damage}") from None


def move_aside(folder: Path) -> Path | None:
    """Rename a damaged file, so that a new one can take its place; returns where it is now."""
    path = folder / FILE_NAME
    numbers = [int(p.suffix[1:]) for p in folder.glob(f"{FILE_NAME}.damaged.*") if _numbered(p)]
    number = max(numbers, default=0) + 1
    for old in sorted(numbers)[: max(0, len(numbers) + 1 - KEPT_DAMAGED)]:
        (folder / f"{FILE_NAME}.damaged.{old}").unlink(missing_ok=True)
    try:
        for suffix in ("-wal", "-shm"):
            path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        if not path.exists():
            return None
        return path.rename(folder / f"{FILE_NAME}.damaged.{number}")
    except OSError as error:
        raise SpoolError(
            "not_writable", f"{path} is damaged and cannot be moved: {error.strerror}"
        ) from None


def _numbered(path: Path) -> bool:
    return path.suffix[1:].isdigit()


def _lock(folder: Path) -> int:
    """The folder's lock, which the system gives back when the process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Python passes no file on to other programs, unless it is told to.
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        reason = "disk_full" if error.errno == 28 else "not_writable"
        raise SpoolError(reason, f"{folder}: {error.strerror}", folder=str(folder)) from None
    if not try_lock(handle):
        os.close(handle)
        raise SpoolError("in_use", f"another process uses the spool {folder}", folder=str(folder))
    return handle


@contextmanager
def _typed() -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise Damaged(str(error)) from None
        if name.startswith("SQLITE_FULL"):
            raise SpoolError("disk_full", "the spool's disk is full") from None
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            raise SpoolError("not_writable", f"the spool cannot be written: {error}") from None
        raise SpoolError("io_error", f"the spool's disk fails: {error}", sqlite=name) from None
    except OSError as error:
        raise SpoolError("io_error", f"the spool's disk fails: {error.strerror}") from None

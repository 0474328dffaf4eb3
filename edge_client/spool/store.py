"""A database that heals: a damaged file is moved aside, a failing disk is no end."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_client.spool.database import Damaged, Database, move_aside
from shared.errors import SpoolError


class Store:
    """Reads and writes for the spool, which says what is in memory beside the file."""

    def __init__(self, folder: Path) -> None:
        """Raises as ``Database`` does, but for damage."""
        self.folder = folder
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        self._writing = False
        self._database = self._open_database()

    def close(self) -> None:
        """Close the file; other processes may open it then."""
        with self._lock:
            self._database.close()

    # -- for the spool to say --------------------------------------------------------------------

    def _load(self) -> None:
        """Read what is in memory from a file that was just opened."""
        raise NotImplementedError

    def _undo(self) -> Callable[[], None]:
        """What takes memory back to this moment, when a transaction fails."""
        raise NotImplementedError

    def _before_write(self) -> None:
        """In every transaction, first."""

    def _after_write(self) -> None:
        """In every transaction, last."""

    def _committed(self) -> None:
        """A transaction is in the file."""

    # -- reading and writing ---------------------------------------------------------------------

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

    def _write(self, write: Callable[[], Any], *, durable: bool) -> Any:
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

    def _attempt(self, write: Callable[[], Any], *, durable: bool) -> Any:
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
        self._committed()
        return result

    def _write_later(self, write: Callable[[], Any]) -> None:
        """Like ``_write``, for what a disk that fails may not hinder, and what may be lost."""
        try:
            self._write(write, durable=False)
        except SpoolError as error:
            with self._lock:
                self._counts[f"unwritten_{error.reason}"] += 1

    def _count(self, what: str, number: int = 1) -> None:
        if number:
            self._counts[what] += number

    # -- opening and healing ---------------------------------------------------------------------

    def _open_database(self) -> Database:
        try:
            return Database(self.folder)
        except Damaged as damage:
            self._counts["damaged_files"] += 1
            where = move_aside(self.folder)
            logging.getLogger(__name__).warning(
                "warning: the spool is damaged (%s); it is kept as %s, and a new one begins",
                damage,
                where,
            )
        try:
            return Database(self.folder)
        except Damaged as damage:
            raise SpoolError("io_error", f"a new spool is damaged at once: {damage}") from None

    def _begin_anew(self, damage: Damaged) -> None:
        """The file was damaged while in use: another one and another session take its place."""
        lost = self._counts["damaged_files"] + 1
        logging.getLogger(__name__).warning("warning: the spool was damaged in use: %s", damage)
        self._database.close()
        where = move_aside(self.folder)
        logging.getLogger(__name__).warning("warning: it is kept as %s", where)
        self._database = self._open_database()
        self._counts = Counter(damaged_files=lost)
        self._load()
        self._counts["damaged_files"] = lost

"""One thread that writes: changes that come while a commit runs share the next one."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Insert
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from shared.errors import FeatherwireError, StorageError

T = TypeVar("T")

MAX_BATCH = 256
"""Changes of one commit."""

Change = Callable[[Connection], T]
"""A change of the database; it may run again when the commit that it was part of failed.

It may raise a ``FeatherwireError`` for its caller, as long as it has changed nothing by then.
"""


@dataclass(slots=True)
class _Job(Generic[T]):
    change: Change[T]
    done: asyncio.Future[T]
    then: Callable[[T], None] | None
    loop: asyncio.AbstractEventLoop


class Writer:
    """Runs changes in the order in which they came, and answers on the caller's event loop."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        translate: Callable[[SQLAlchemyError], StorageError],
        begin: Callable[[Connection], bool] | None = None,
    ) -> None:
        """connect: a connection that may write; called again when one was lost. begin: the first
        thing of every transaction; True: another process has written.

        Raises what ``connect`` raises.
        """
        self._connect = connect
        self._translate = translate
        self._begin_hook = begin
        self._connection: Connection | None = connect()
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self.failures = 0
        """Commits that failed: what was remembered of the database must be read again."""
        self.foreign_commits = 0
        """How often others were found to have written, where servers share the database."""
        self._thread = threading.Thread(target=self._run, name="featherwire-writer", daemon=True)
        self._thread.start()

    async def write(self, change: Change[T], then: Callable[[T], None] | None = None) -> T:
        """The result of ``change`` once it is durable; ``then`` gets it on the loop just before.

        Results come back in the order in which changes were given. Raises ``StorageError``.
        """
        if self._closed:
            raise StorageError("closed", "the database is closed")
        loop = asyncio.get_running_loop()
        job: _Job[T] = _Job(change, loop.create_future(), then, loop)
        self._jobs.put(job)
        return await job.done

    def run(self, change: Change[T]) -> T:
        """``change`` in this thread, before any loop runs. Raises ``StorageError``."""
        with self._translated():
            assert self._connection is not None
            with self._connection.begin():
                self._begin(self._connection)
                return change(self._connection)

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what is waiting, then stop; blocks."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            self._thread.join(timeout_s)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        more = True
        while more:
            jobs, more = self._take()
            if jobs:
                self._commit(jobs)
        if self._connection is not None:
            self._connection.close()

    def _take(self) -> tuple[list[_Job[Any]], bool]:
        jobs: list[_Job[Any]] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) >= MAX_BATCH:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _commit(self, jobs: list[_Job[Any]]) -> None:
        try:
            with self._translated():
                if self._connection is None:
                    self._connection = self._connect()
                with self._connection.begin():
                    self._begin(self._connection)
                    outcomes = [_outcome(job, self._connection) for job in jobs]
        except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits for an answer
            self.failures += 1
            if len(jobs) > 1 and self._connection is not None:
                for job in jobs:  # one of them is at fault, and the others must not suffer
                    self._commit([job])
                return
            outcomes = [error] * len(jobs)
        _answer(jobs, outcomes)

    def _begin(self, connection: Connection) -> None:
        if self._begin_hook is not None and self._begin_hook(connection):
            self.foreign_commits += 1

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise self._lost(error) from error

    def _lost(self, error: SQLAlchemyError) -> StorageError:
        """``error`` as a ``StorageError``; a connection that it has spoilt is given up."""
        if (
            isinstance(error, DBAPIError)
            and error.connection_invalidated
            and self._connection is not None
        ):
            self._connection.close()
            self._connection = None
        return self._translate(error)


def _outcome(job: _Job[Any], connection: Connection) -> Any:
    try:
        return job.change(connection)
    except FeatherwireError as error:
        return error


def _answer(jobs: list[_Job[Any]], outcomes: list[Any]) -> None:
    """Hand the outcomes to the loops that wait, in order."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job[Any], Any]]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        by_loop.setdefault(job.loop, []).append((job, outcome))
    for loop, pairs in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, pairs)


def _resolve(pairs: list[tuple[_Job[Any], Any]]) -> None:
    for job, outcome in pairs:
        if isinstance(outcome, BaseException):
            if not job.done.done():
                job.done.set_exception(outcome)
            continue
        if job.then is not None:
            job.then(outcome)
        if not job.done.done():
            job.done.set_result(outcome)


Row = dict[str, Any]


class BulkInsert:
    """An INSERT that is compiled once. Rows are values as the driver takes them, all of one shape.

    The names in a row are those of its columns, two at least.
    """

    def __init__(self, statement: Insert) -> None:
        self._statement = statement
        self._compiled: tuple[str, itemgetter[Any] | None] | None = None

    def __call__(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Add rows, one at least; returns how many were added."""
        if self._compiled is None:
            compiled = self._statement.compile(
                dialect=connection.dialect, column_keys=list(rows[0])
            )
            names = compiled.positiontup if compiled.positional else None
            self._compiled = (str(compiled), itemgetter(*names) if names else None)
        text, values = self._compiled
        done = connection.exec_driver_sql(
            text,
            list(rows) if values is None else list(map(values, rows)),
            execution_options={"preserve_rowcount": True},
        )
        return done.rowcount

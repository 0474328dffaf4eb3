"""One thread that writes: changes that come while a commit runs share the next one."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Insert
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from shared.errors import FeatherwireError, StorageError

T = TypeVar("T")

MAX_BATCH = 256
"""Changes of one commit."""

RECONNECT_S = 5.0
"""For so long a lost connection is tried to be made again while changes wait for it."""

RECONNECT_PAUSE_S = 0.1

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
    repeatable: bool


class Writer:
    """Runs changes in the order in which they came, and answers on the caller's event loop."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        translate: Callable[[SQLAlchemyError], StorageError],
        begin: Callable[[Connection], bool] | None = None,
        *,
        spoils: Callable[[SQLAlchemyError], bool] = lambda error: False,
    ) -> None:
        """connect: a connection that may write; called again when one was lost. begin: the first
        thing of every transaction; True: another process has written. spoils: whether after this
        error a connection is of no more use, though it is not known to be lost.

        Raises what ``connect`` raises.
        """
        self._connect = connect
        self._translate = translate
        self._begin_hook = begin
        self._spoils = spoils
        self._connection: Connection | None = connect()
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._committing = False
        self._busy_since: float | None = None
        self._failing_since: float | None = None
        self._idle_since = time.monotonic()
        self.failures = 0
        """Commits that failed: what was remembered of the database must be read again."""
        self.foreign_commits = 0
        """How often others were found to have written, where servers share the database."""
        self._thread = threading.Thread(target=self._run, name="featherwire-writer", daemon=True)
        self._thread.start()

    @property
    def away_s(self) -> float:
        """For how many seconds nothing could be committed; those of a commit that runs, too."""
        now = time.monotonic()
        since = [one for one in (self._failing_since, self._busy_since) if one is not None]
        return max(0.0, now - min(since)) if since else 0.0

    @property
    def idle_s(self) -> float:
        """Seconds since the last commit."""
        return 0.0 if self._busy_since is not None else time.monotonic() - self._idle_since

    @property
    def failing(self) -> bool:
        """Whether the last commit failed."""
        return self._failing_since is not None

    async def write(
        self,
        change: Change[T],
        then: Callable[[T], None] | None = None,
        *,
        repeatable: bool = False,
    ) -> T:
        """The result of ``change`` once it is durable; ``then`` gets it on the loop just before.

        Results come back in the order in which changes were given. A connection that is lost is
        made again, and the change with it; but where it was lost in the middle of the commit,
        nobody knows whether that took place, and only a ``repeatable`` change runs again, which
        does nothing when it is done already. Raises ``StorageError``.
        """
        if self._closed:
            raise StorageError("closed", "the database is closed")
        loop = asyncio.get_running_loop()
        job: _Job[T] = _Job(change, loop.create_future(), then, loop, repeatable)
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
        """Run changes in one transaction, and answer them."""
        # While the database is known to be away nobody waits for it: one try.
        until = time.monotonic() + (0.0 if self.failing else RECONNECT_S)
        self._busy_since = time.monotonic()
        while True:
            try:
                outcomes = self._transaction(jobs)
            except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits for it
                self.failures += 1
                if self._connection is None:
                    jobs = self._not_repeated(jobs, error)
                    if jobs and not self._closed and time.monotonic() < until:
                        time.sleep(RECONNECT_PAUSE_S)
                        continue
                self._fail(jobs, error)
            else:
                self._rest(failing=False)
                _answer(jobs, outcomes)
            return

    def _rest(self, *, failing: bool) -> None:
        """Note, before anybody is answered, how a commit ended."""
        if not failing:
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = self._busy_since
        self._busy_since, self._idle_since = None, time.monotonic()

    def _transaction(self, jobs: list[_Job[Any]]) -> list[Any]:
        self._committing = False
        with self._translated():
            if self._connection is None:
                self._connection = self._connect()
            with self._connection.begin():
                self._begin(self._connection)
                outcomes = [_outcome(job, self._connection) for job in jobs]
                self._committing = True
        return outcomes

    def _not_repeated(self, jobs: list[_Job[Any]], error: Exception) -> list[_Job[Any]]:
        """Answer those that may have been committed and must not be so twice; returns the others.

        The connection is lost.
        """
        if not self._committing:
            return jobs
        self._committing = False
        doubtful = [job for job in jobs if not job.repeatable]
        _answer(doubtful, [error] * len(doubtful))
        return [job for job in jobs if job.repeatable]

    def _fail(self, jobs: list[_Job[Any]], error: Exception) -> None:
        if len(jobs) > 1 and self._connection is not None:
            for job in jobs:  # one of them is at fault, and the others must not suffer
                self._commit([job])
            return
        self._rest(failing=True)
        _answer(jobs, [error] * len(jobs))

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
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        if self._connection is not None and (lost or self._spoils(error)):
            with suppress(SQLAlchemyError):  # it may be beyond that, too
                self._connection.invalidate()
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

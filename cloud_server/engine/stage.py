"""A stage: threads that take items from one bounded queue, in batches of like items.

Nothing heavy runs on the event loop. A caller awaits ``Stage.run(item)``; a worker thread takes the
item, with others of the same key when batching is on, and the loop learns when it is done. Each
worker has its own handler (a model instance), made before the first item.

A stage holds at most ``queue_size`` items, waiting and running; further callers wait in
``run``, holding nothing of this stage and blocking no other stage.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from shared.errors import FeatherwireError

Item = TypeVar("Item")
Output = TypeVar("Output")

Handler = Callable[[list[Item]], Sequence[Output]]
"""Turns a batch into as many outputs, in order. Runs in one thread at a time."""

StoppableHandler = Callable[[list[Item], Callable[[], bool]], Sequence[Output]]
"""A handler that asks now and then whether anybody still waits, and raises when nobody does."""


@dataclass(frozen=True, slots=True)
class Done(Generic[Output]):
    """An output with what it took: ms waiting, ms in the handler, and the size of its batch."""

    value: Output
    queue_ms: float
    run_ms: float
    batch_size: int


@dataclass(slots=True, eq=False)
class _Job(Generic[Item, Output]):
    item: Item
    future: asyncio.Future[Done[Output]]
    queued_at: float = field(default_factory=time.perf_counter)


class Stage(Generic[Item, Output]):
    """Worker threads around one kind of handler.

    ``key`` says which items may share a batch. A batch leaves when it has ``max_batch`` items, when
    its oldest item has waited ``max_delay_s``, or at once when ``expecting`` says that no more are
    coming.
    """

    def __init__(
        self,
        name: str,
        *,
        queue_size: int,
        max_batch: int = 1,
        max_delay_s: float = 0.0,
        key: Callable[[Item], Hashable] = lambda item: None,
        expecting: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self._max_batch = max_batch
        self._max_delay_s = max_delay_s
        self._key = key
        self._expecting = expecting
        self._slots = asyncio.Semaphore(queue_size)
        self._changed = threading.Condition()
        self._groups: dict[Hashable, deque[_Job[Item, Output]]] = {}
        self._closing = False
        self._threads: list[threading.Thread] = []
        self._pending = 0

    @property
    def pending(self) -> int:
        """Items that are inside the stage or wait to enter it."""
        return self._pending

    @property
    def alive(self) -> bool:
        """Whether every worker thread runs."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def start(self, handlers: Sequence[Handler[Item, Output]]) -> None:
        """Start one worker thread for each handler."""
        self.start_stoppable([_unstoppable(handler) for handler in handlers])

    def start_stoppable(self, handlers: Sequence[StoppableHandler[Item, Output]]) -> None:
        """Like ``start``, for handlers that ask whether to stop: all gave up, or we close."""
        for number, handler in enumerate(handlers):
            thread = threading.Thread(
                target=self._work, args=(handler,), name=f"{self.name}-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    async def run(self, item: Item) -> Done[Output]:
        """Have a worker handle ``item``; what the handler raises comes as ``FeatherwireError``."""
        self._pending += 1
        try:
            async with self._slots:
                job: _Job[Item, Output] = _Job(item, asyncio.get_running_loop().create_future())
                self._put(job)
                return await job.future
        finally:
            self._pending -= 1

    async def close(self, timeout_s: float = 5.0) -> bool:
        """Stop the workers; False when one is still busy after ``timeout_s``.

        Handlers that ask learn that they shall stop; the others end what they are doing.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _put(self, job: _Job[Item, Output]) -> None:
        key = self._key(job.item)
        with self._changed:
            if self._closing or not self._threads:
                raise FeatherwireError("engine_closed", f"{self.name} is not running")
            self._groups.setdefault(key, deque()).append(job)
            self._changed.notify()

    def _take(self) -> list[_Job[Item, Output]] | None:
        """Wait for the next batch; None when the stage closes."""
        with self._changed:
            while not self._closing:
                if not self._groups:
                    self._changed.wait()
                    continue
                key = self._next_group()
                jobs = self._groups[key]
                wait_s = jobs[0].queued_at + self._max_delay_s - time.perf_counter()
                if len(jobs) < self._max_batch and wait_s > 0 and self._expecting():
                    self._changed.wait(wait_s)
                    continue
                batch = [jobs.popleft() for _ in range(min(len(jobs), self._max_batch))]
                if not jobs:
                    del self._groups[key]
                return batch
            return None

    def _next_group(self) -> Hashable:
        """The key of the group that waits longest."""
        return min(self._groups, key=lambda key: self._groups[key][0].queued_at)

    def _work(self, handler: StoppableHandler[Item, Output]) -> None:
        while (batch := self._take()) is not None:
            live = [job for job in batch if not job.future.done()]
            if live:
                self._handle(handler, live)

    def _handle(
        self, handler: StoppableHandler[Item, Output], jobs: list[_Job[Item, Output]]
    ) -> None:
        def should_stop() -> bool:
            return self._closing or all(job.future.done() for job in jobs)

        started = time.perf_counter()
        try:
            outputs = handler([job.item for job in jobs], should_stop)
            if len(outputs) != len(jobs):
                raise RuntimeError(f"{len(outputs)} outputs for {len(jobs)} items")
        except Exception as error:  # noqa: BLE001  # a model may raise anything; it fails one frame
            if len(jobs) > 1 and not should_stop():
                # One bad item must not take its neighbours with it: each for itself.
                for job in jobs:
                    self._handle(handler, [job])
            else:
                for job in jobs:
                    _resolve(job.future, self._typed(error))
            return
        run_ms = (time.perf_counter() - started) * 1e3
        for job, output in zip(jobs, outputs, strict=True):
            queue_ms = (started - job.queued_at) * 1e3
            _resolve(job.future, Done(output, queue_ms, run_ms, len(jobs)))

    def _typed(self, error: Exception) -> FeatherwireError:
        if isinstance(error, FeatherwireError):
            return error
        structlog.get_logger().error("stage_failed", stage=self.name, exc_info=error)
        return FeatherwireError(
            "internal_error", f"{self.name} failed: {type(error).__name__}", stage=self.name
        )


def _unstoppable(handler: Handler[Item, Output]) -> StoppableHandler[Item, Output]:
    """A handler that cannot be stopped, as one that can."""
    return lambda items, _should_stop: handler(items)


def _resolve(
    future: asyncio.Future[Done[Output]], outcome: Done[Output] | FeatherwireError
) -> None:
    """Resolve ``future`` on its own loop, from a worker thread."""

    def resolve() -> None:
        if future.done():
            return  # the caller gave up
        if isinstance(outcome, Done):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    with suppress(RuntimeError):  # the loop has closed: nobody waits any more
        future.get_loop().call_soon_threadsafe(resolve)

"""A thread and a bounded buffer for each sink: none slows down who brings results.

put ──> buffer ──deliver──> done
          │         ├── refused: counted       away: again, after a pause that grows
          │         └── not taken: again too, but not beyond ``give_up_s``
          └── full: the oldest is dropped and counted; or, with ``wait``, put waits

Several reports are delivered at once. When these are not taken, they are delivered one by one, so
that only the one that is at fault is counted as refused, or waited for.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from shared.backoff import Backoff
from shared.errors import FeatherwireError, SinkError
from shared.sinks.report import Report

BUFFERED_REPORTS = 1000
AT_ONCE = 64
DRAIN_S = 10.0
HURRY_S = 1.5
"""How long a sink that is closed may still take over what it is doing."""
DEFECT_PATIENCE_S = 30.0
"""How long a report is tried over which a sink fails as no sink should."""
TELL_EVERY_S = 3600.0
_ABOUT_REPORTS = {"refused", "not_taken", "internal_error"}
"""The reasons that may lie in a report. With any other the sink is away."""


class Sink(Protocol):
    """A place for results, driven by a pump from one thread. All methods raise SinkError:
    ``refused`` when it is of no use to try the same again, ``not_taken`` when it is there and this
    may be why it fails, any other reason when it is away.

    Details of the error: ``retry_after_s``, before which it is of no use to try again;
    ``retry_within_s``, after which it is not too early; ``patience_s``, how long a report that is
    not taken is worth being tried, unless all reports are waited for.
    """

    @property
    def name(self) -> str:
        """The sink's name for people, without a password."""

    @property
    def at_once(self) -> int:
        """How many reports ``deliver`` takes at most."""

    def deliver(self, reports: Sequence[Report]) -> None:
        """Bring the reports where they should be: all, or, when it raises, perhaps a part."""

    def close(self) -> None:
        """Close the sink; it gets no more reports."""


class Pump:
    """Brings reports to one sink, in a thread of its own."""

    def __init__(
        self,
        sink: Sink,
        *,
        capacity: int = BUFFERED_REPORTS,
        wait: bool = False,
        give_up_s: float | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """wait: let ``put`` wait when the buffer is full, so that nothing is lost. give_up_s: a
        report that is not taken for so many seconds of trying is dropped, so that it does not hold
        up the next ones; None: never."""
        self.sink = sink
        self.counts: Counter[str] = Counter()
        """delivered, retries, dropped_full, dropped_refused, dropped_given_up, dropped_end."""
        self.error: FeatherwireError | None = None
        """Why the sink takes nothing now."""
        self.delivered_cursor: int | None = None
        """Of the last report that is done with; all before it are too."""
        self._capacity = capacity
        self._wait = wait
        self._give_up_s = math.inf if give_up_s is None else give_up_s
        self._stuck: tuple[Report, float] | None = None
        self._one_by_one = 0
        self._told: dict[str, float] = {}
        self._closed = False
        self._backoff = backoff or Backoff()
        self._buffer: deque[Report] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="featherwire-sink", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many reports wait in the buffer."""
        return len(self._buffer)

    def put(self, report: Report, timeout_s: float | None = None) -> bool:
        """Take a report; False when ``wait`` was given and there was no room in time."""
        with self._changed:
            if self._wait and not self._changed.wait_for(
                lambda: len(self._buffer) < self._capacity, timeout_s
            ):
                return False
            while len(self._buffer) >= self._capacity:
                self._buffer.popleft()
                self.counts["dropped_full"] += 1
            self._buffer.append(report)
            self._changed.notify_all()
            return True

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Deliver what is left, for so many seconds; what is then left is dropped and counted.
        Closing it again does nothing."""
        Pumps([self]).close(drain_s)

    def drain(self) -> None:
        """Say that nothing more comes: the thread ends when all is delivered."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, until_s: float) -> None:
        """Wait for the thread's end, to this time of ``time.monotonic`` at most."""
        self._thread.join(max(0.0, until_s - time.monotonic()))

    def hurry(self) -> None:
        """Have the thread end with what it is doing now."""
        self._stop.set()

    def finish(self) -> None:
        """Drop and count what is left, and close the sink, unless the thread hangs in it."""
        if self._closed:
            return
        self._closed = True
        with self._changed:
            self.counts["dropped_end"] += len(self._buffer)
            self._buffer.clear()
        if self._thread.is_alive():
            return
        try:
            self.sink.close()
        except FeatherwireError as error:
            self.error = error
        except Exception as error:  # a library's own: the other sinks are closed all the same
            logging.getLogger(__name__).exception("%s could not be closed", self.sink.name)
            self.error = SinkError("internal_error", f"{self.sink.name}: {error}")

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._buffer) or self._closing)
                most = 1 if self._one_by_one else min(AT_ONCE, self.sink.at_once)
                batch = [*islice(self._buffer, most)]
            if not batch or self._stop.is_set():
                return
            outcome = self._deliver(batch)
            if outcome is None:
                continue
            self._one_by_one = max(0, self._one_by_one - len(batch))
            with self._changed:
                # Some may have been dropped for newer ones meanwhile: these were delivered, though.
                first = {id(report) for report in batch}
                while self._buffer and id(self._buffer[0]) in first:
                    self._buffer.popleft()
                self.counts[outcome] += len(batch)
                self.delivered_cursor = batch[-1].cursor
                self._changed.notify_all()

    def _deliver(self, batch: Sequence[Report]) -> str | None:
        """What to count the reports as; None: try again."""
        try:
            self.sink.deliver(batch)
        except SinkError as error:
            failure = error
        except Exception as error:  # a library's own: no thread dies in silence
            if self.error is None or self.error.reason != "internal_error":
                logging.getLogger(__name__).exception("%s failed", self.sink.name)
            failure = SinkError("internal_error", f"{self.sink.name}: {error}")
        else:
            self.error = None
            self._backoff.reset()
            return "delivered"
        if failure.reason in _ABOUT_REPORTS and len(batch) > 1:
            self._one_by_one = len(batch)
            return None
        if failure.reason == "refused":
            self._tell(failure, batch[0])
        elif self.error is None and failure.reason != "internal_error":
            logging.getLogger(__name__).warning("warning: %s", failure.message)
        self.error = failure
        if failure.reason == "refused":
            return "dropped_refused"
        if self._gives_up(batch[0], failure):
            return "dropped_given_up"
        self.counts["retries"] += 1
        pause_s = min(self._backoff.next_s(), float(failure.details.get("retry_within_s", 3600.0)))
        self._stop.wait(max(float(failure.details.get("retry_after_s", 0.0)), pause_s))
        return None

    def _tell(self, error: FeatherwireError, report: Report) -> None:
        """Say once that a report is lost; further ones are counted, and told of in an hour."""
        now_s = time.monotonic()
        if now_s < self._told.get(error.reason, -math.inf) + TELL_EVERY_S:
            return
        self._told[error.reason] = now_s
        logging.getLogger(__name__).warning(
            "warning: frame %d of %s is given up: %s (further ones are counted)",
            report.sequence,
            report.device,
            error.message,
        )

    def _gives_up(self, first: Report, error: FeatherwireError) -> bool:
        """Whether what begins with this report has been tried for long enough."""
        if error.reason not in _ABOUT_REPORTS:
            return False
        now_s = time.monotonic()
        if self._stuck is None or self._stuck[0] is not first:
            self._stuck = (first, now_s)
        tried_s = now_s - self._stuck[1]
        patience_s = self._give_up_s
        if error.reason == "internal_error":
            patience_s = min(patience_s, DEFECT_PATIENCE_S)
        elif not self._wait:
            patience_s = min(patience_s, float(error.details.get("patience_s", math.inf)))
        if tried_s < patience_s:
            return False
        logging.getLogger(__name__).warning(
            "warning: frame %d of %s is given up after %.0f s: %s",
            first.sequence,
            first.device,
            tried_s,
            error.message,
        )
        self._stuck = None
        self._backoff.reset()
        return True


class Pumps:
    """All sinks of a command. Use it in a ``with`` statement."""

    def __init__(self, pumps: Sequence[Pump] = ()) -> None:
        self.pumps = tuple(pumps)

    def __enter__(self) -> Pumps:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def put(self, report: Report) -> None:
        """Give a report to every sink."""
        for pump in self.pumps:
            pump.put(report)

    @property
    def delivered_cursor(self) -> int | None:
        """The cursor up to which every sink is done; None when none is known to be."""
        cursors = [pump.delivered_cursor for pump in self.pumps]
        known = [cursor for cursor in cursors if cursor is not None]
        return min(known) if known and len(known) == len(cursors) else None

    def counts(self) -> dict[str, dict[str, int | str]]:
        """What became of reports, by the sink's name; ``error``: why it takes nothing now."""
        counts: dict[str, dict[str, int | str]] = {}
        for pump in self.pumps:
            name, number = pump.sink.name, 2
            while name in counts:  # names leave out what may be secret, as a webhook's path
                name, number = f"{pump.sink.name} ({number})", number + 1
            counts[name] = {
                **pump.counts,
                "waiting": pump.waiting,
                **({"error": pump.error.reason} if pump.error is not None else {}),
            }
        return counts

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Close all, together in so many seconds and a moment."""
        until_s = time.monotonic() + drain_s
        for pump in self.pumps:
            pump.drain()
        for pump in self.pumps:
            pump.join(until_s)
        for pump in self.pumps:
            pump.hurry()
        until_s = time.monotonic() + HURRY_S
        for pump in self.pumps:
            pump.join(until_s)
            pump.finish()

"""How a stream goes, and how that is shown: a live table, lines of JSON, or lines of text."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_client.cli.reporter import write_line
from shared.cli import print_line
from shared.words import counted

if TYPE_CHECKING:
    from rich.table import Table

    from edge_client.session import EdgeSession, FrameResult
    from edge_client.sources import CaptureThread
    from edge_client.sources.feed import Feed
    from edge_client.spool import Spool
    from shared.sinks import Pumps

WINDOW_S = 10.0
ROUND_TRIPS = 50
_DROPPED = "dropped_"
REFRESHES_PER_SECOND = 4


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    bits_per_pixel: float | None
    payload_bytes: int


class Meter:
    """Counts results; ``status`` puts all that is known together. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began_s = clock()
        self._recent: deque[_Sample] = deque(maxlen=10_000)
        self._trips_ms: deque[float] = deque(maxlen=ROUND_TRIPS)
        self.counts: Counter[str] = Counter()
        """results, refined, kept, failed, bytes."""
        self._state: int | None = None
        self._error: dict[str, Any] | None = None

    def result(self, result: FrameResult) -> None:
        """Count a result."""
        with self._lock:
            if result.error is not None:
                kept = result.error.reason == "spooled"
                self.counts["kept" if kept else "failed"] += 1
                if not kept:
                    self._error = result.error.to_dict()
                return
            if result.refined:
                self.counts["refined"] += 1
                return
            self.counts["results"] += 1
            self.counts["bytes"] += result.payload_bytes
            self._state = result.state
            bits = None if result.analysis is None else result.analysis.bits_per_pixel
            self._recent.append(_Sample(self._clock(), bits, result.payload_bytes))
            if result.round_trip_ms > 0:
                self._trips_ms.append(result.round_trip_ms)

    def failed(self, error: dict[str, Any]) -> None:
        """Count a picture that could not be read."""
        with self._lock:
            self._error = error

    def flow(self) -> dict[str, Any]:
        """Averages of the last ten seconds: results and bits a second, bits per pixel, round
        trip."""
        now_s = self._clock()
        with self._lock:
            since_s = min(WINDOW_S, max(1.0, now_s - self._began_s))
            recent = [one for one in self._recent if one.at_s > now_s - since_s]
            bits = [one.bits_per_pixel for one in recent if one.bits_per_pixel is not None]
            trip = statistics.median(self._trips_ms) if self._trips_ms else None
            return {
                "frames_per_second": round(len(recent) / since_s, 2),
                "bits_per_second": round(8 * sum(one.payload_bytes for one in recent) / since_s),
                "bits_per_pixel": round(statistics.fmean(bits), 4) if bits else None,
                "round_trip_ms": None if trip is None else round(trip, 1),
                "state": self._state,
                "last_error": self._error,
            }


class Status:
    """Everything about a running stream, as JSON-ready values."""

    def __init__(
        self,
        meter: Meter,
        captures: CaptureThread,
        feed: Feed,
        session: EdgeSession,
        spool: Spool,
        sinks: Pumps,
    ) -> None:
        self._meter = meter
        self._captures = captures
        self._feed = feed
        self._session = session
        self._spool = spool
        self._sinks = sinks

    def read(self) -> dict[str, Any]:
        """The stream's status now; ``queue`` is what waits for the server."""
        captures, counts = self._captures, self._meter.counts
        spool = self._spool.stats()
        dropped = self._feed.dropped()
        for name, count in spool.counts.items():
            if name.startswith((_DROPPED, "refused_")):
                dropped[f"spool_{name.removeprefix(_DROPPED)}"] = count
        error, offline = captures.error, self._session.why_offline
        return {
            "source": {
                "name": captures.source.name,
                "state": captures.state,
                "error": None if error is None else error.to_dict(),
                "captured": captures.captured,
                "reconnects": captures.reconnects,
                "damaged": captures.source.damaged,
            },
            "online": self._session.online,
            "offline": None if offline is None else offline.to_dict(),
            **self._meter.flow(),
            "sent": self._feed.sent,
            "key_frames": self._session.groups.key_frames,
            "predicted_frames": self._session.groups.predicted_frames,
            "results": counts["results"],
            "failed": counts["failed"],
            "bytes": counts["bytes"],
            "dropped": dropped,
            "queue": {
                "frames": spool.frames,
                "bytes": spool.payload_bytes,
                "awaited": spool.awaited,
            },
            "sinks": self._sinks.counts(),
        }


def print_event(event: str, values: Mapping[str, Any]) -> None:
    """Print an event as a line of JSON on standard output."""
    print_line({"event": event, **values})


def can_redraw() -> bool:
    """Whether what is on standard error, a terminal, can be drawn over."""
    from rich.console import Console

    return not Console(stderr=True).is_dumb_terminal


def print_progress(status: dict[str, Any]) -> None:
    """A status in a line on standard error."""
    rows = dict(status_rows(status))
    names = ("server", "frames a second", "state", "queue", "sent, results, failed")
    write_line(sys.stderr, "; ".join(f"{name} {rows[name]}" for name in names))


@contextmanager
def live_table(read: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Show a status on standard error, four times a second."""
    from rich.console import Console
    from rich.live import Live

    with Live(
        console=Console(stderr=True),
        get_renderable=lambda: status_table(read()),
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=True,
    ):
        yield


@contextmanager
def every(seconds: float, show: Callable[[], None]) -> Iterator[None]:
    """Call ``show`` every so many seconds, in a thread of its own."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            show()

    thread = threading.Thread(target=run, name="featherwire-status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1.0)


def status_table(status: dict[str, Any]) -> Table:
    """A status as a table for people."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, title="featherwire-edge stream")
    for name, value in status_rows(status):
        table.add_row(name, Text(value))
    return table


def status_rows(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Rows of (name, value) of a status, in words."""
    source, queue = status["source"], status["queue"]
    reconnects = counted(source["reconnects"], "time")
    again = f", opened again {reconnects}" if source["reconnects"] else ""
    why = f" ({source['error']['message']})" if source["error"] else ""
    yield "source", f"{source['name']}: {source['state']}{why}{again}"
    away = f" ({status['offline']['message']})" if status["offline"] else ""
    yield "server", "online" if status["online"] else f"away{away}: frames are kept"
    yield "frames a second", f"{status['frames_per_second']:.2f}"
    yield "state", _or_dash(status["state"])
    yield "bits per pixel", _or_dash(status["bits_per_pixel"])
    yield "kilobits a second", f"{status['bits_per_second'] / 1000:.1f}"
    yield "queue", f"{counted(queue['frames'], 'frame')}, {queue['bytes'] / 1000:.1f} kB"
    yield "round trip", f"{_or_dash(status['round_trip_ms'])} ms"
    yield "sent, results, failed", f"{status['sent']}, {status['results']}, {status['failed']}"
    dropped = ", ".join(f"{count} {reason}" for reason, count in status["dropped"].items())
    yield "key, predicted", f"{status['key_frames']}, {status['predicted_frames']}"
    yield "left out", dropped or "-"
    for name, counts in status["sinks"].items():
        yield f"to {name}", ", ".join(f"{value} {key}" for key, value in counts.items())
    if status["last_error"]:
        yield "last error", f"{status['last_error']['message']}"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)

"""How a stream is shown: a live table, lines of JSON, or lines of text."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

REFRESHES_PER_SECOND = 4
_PRINTING = threading.Lock()


def print_event(event: str, values: dict[str, Any]) -> None:
    """A line of JSON on standard output."""
    with _PRINTING:
        sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
        sys.stdout.flush()


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
def every(seconds: float, tell: Callable[[], None]) -> Iterator[None]:
    """Call ``tell`` every so many seconds, in a thread of its own."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            tell()

    thread = threading.Thread(target=run, name="featherwire-status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1.0)


def status_table(status: dict[str, Any]) -> Table:
    """A status for people."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, title="featherwire-edge stream")
    for name, value in status_rows(status):
        table.add_row(name, Text(value))
    return table


def status_rows(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, how) of a status, in words."""
    source, queue = status["source"], status["queue"]
    again = f", opened again {source['reconnects']} times" if source["reconnects"] else ""
    why = f" ({source['error']['message']})" if source["error"] else ""
    yield "source", f"{source['name']}: {source['state']}{why}{again}"
    yield "server", "online" if status["online"] else "away: frames are kept"
    yield "frames a second", f"{status['frames_per_second']:.2f}"
    yield "state", _or_dash(status["state"])
    yield "bits per pixel", _or_dash(status["bits_per_pixel"])
    yield "kilobits a second", f"{status['bits_per_second'] / 1000:.1f}"
    yield "queue", f"{queue['frames']} frames, {queue['bytes'] / 1000:.1f} kB"
    yield "round trip", f"{_or_dash(status['round_trip_ms'])} ms"
    yield "sent, results, failed", f"{status['sent']}, {status['results']}, {status['failed']}"
    dropped = ", ".join(f"{count} {reason}" for reason, count in status["dropped"].items())
    yield "left out", dropped or "-"
    for name, counts in status["sinks"].items():
        yield f"to {name}", ", ".join(f"{value} {key}" for key, value in counts.items())
    if status["last_error"]:
        yield "last error", f"{status['last_error']['message']}"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)

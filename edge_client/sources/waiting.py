"""Reading a pipe without being stuck in it."""

from __future__ import annotations

import os
import select
import threading

LOOK_S = 0.2


def read_some(number: int, most: int, stop: threading.Event) -> bytes | None:
    """Bytes of a file by its number, at least one; empty at its end; None once ``stop`` is set."""
    poll = select.poll()
    poll.register(number, select.POLLIN)
    while not stop.is_set():
        if poll.poll(LOOK_S * 1000):
            return os.read(number, most)
    return None

"""A clock for the age of frames that no jump of the wall clock changes.

A device's wall clock jumps: it starts in 1970 until a network tells the time, and an operator may
set it. So it is never asked here. A spool's own clock counts the seconds during which the device
ran: within one boot it follows the system's monotonic clock, across processes and sleep; over a
reboot it goes on where it was last written. The time for which a device was switched off, which
nobody knows for certain, does not count.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Uptime:
    """Seconds of a clock that never goes back, and the boot in which it ran."""

    boot: str
    seconds: float


UptimeSource = Callable[[], Uptime]


def system_uptime() -> Uptime:
    """Seconds since boot, sleep included. Where a boot has no name each process is one."""
    boot = _boot_id()
    if hasattr(time, "CLOCK_BOOTTIME"):
        return Uptime(boot, time.clock_gettime(time.CLOCK_BOOTTIME))
    return Uptime(boot, time.monotonic())


class SpoolClock:
    """Seconds that the device ran since the spool was made; never goes back."""

    def __init__(self, source: UptimeSource, saved_s: float = 0.0, at: Uptime | None = None):
        """saved_s: what this clock showed at the uptime ``at``."""
        self._source = source
        now = source()
        here = at is not None and at.boot == now.boot
        elapsed_s = max(0.0, now.seconds - at.seconds) if here and at is not None else 0.0
        self._start_s = saved_s + elapsed_s
        self._start = now
        self._last_s = self._start_s

    def now(self) -> float:
        """Seconds of this clock now."""
        elapsed_s = self._source().seconds - self._start.seconds
        self._last_s = max(self._last_s, self._start_s + elapsed_s)
        return self._last_s

    def uptime(self) -> Uptime:
        """The system's uptime, to be saved beside ``now``."""
        return self._source()


_PROCESS_BOOT = uuid.uuid4().hex


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip() or _PROCESS_BOOT
    except OSError:
        return _PROCESS_BOOT

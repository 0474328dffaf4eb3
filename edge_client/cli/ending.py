"""When a command that runs for days is told to end: by whom, and what it may still wait for."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

END_S = 3.0
"""From the signal to the end of all waiting; what hangs in a system call adds a second."""

RESULTS_S = 2.0
"""Of that for results that are still to come."""

LEAST_S = 0.3

HANGUP = getattr(signal, "SIGHUP", None)
"""Windows has none: it ends what a closed window leaves."""
ONE_SIGNAL_S = 0.5
"""A terminal, or `timeout`, may send the same signal twice: to the process, and to its group."""


class Ending:
    """SIGTERM, SIGINT and SIGHUP as an orderly end. Use it in a ``with`` statement, on the main
    thread.

    A SIGHUP that was ignored when the process began, as under nohup, is ignored still. After one
    that was not, the terminal is gone: what is written there goes nowhere.
    """

    def __init__(self, grace_s: float | None = None) -> None:
        """grace_s: for all that is waited for after a signal; None is ``END_S``."""
        self._results_s = RESULTS_S if grace_s is None else grace_s
        self._all_s = END_S if grace_s is None else grace_s
        self._grace_s = grace_s
        self.stop = threading.Event()
        """The command was told to end."""
        self.hurry = threading.Event()
        """No result is waited for any more."""
        self._at = 0.0
        self._then: list[Callable[[], None]] = []
        self._before: dict[int, Any] = {}
        self._timer = threading.Timer(self._results_s, self.hurry.set)
        self._timer.daemon = True
        self._terminals = [fd for fd in (0, 1, 2) if _is_terminal(fd)]

    def __enter__(self) -> Ending:
        numbers = [signal.SIGTERM, signal.SIGINT]
        if HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN:
            numbers.append(HANGUP)
        self._before = {number: signal.signal(number, self._end) for number in numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def then(self, stop: Callable[[], None]) -> None:
        """Call this too when the command is told to end; at once where it was told already."""
        self._then.append(stop)
        if self.stop.is_set():
            stop()

    def left_s(self, usual_s: float) -> float:
        """Seconds that may be waited for something at the end; usual_s: without a signal, and
        without ``--grace``."""
        if not self.stop.is_set():
            return usual_s if self._grace_s is None else self._grace_s
        return max(LEAST_S, self._at + self._all_s - time.monotonic())

    def _end(self, number: int, frame: FrameType | None) -> None:
        if number == HANGUP:
            self._leave_terminal()
        if not self.stop.is_set():
            self._at = time.monotonic()
            self.stop.set()
            self._timer.start()
            for stop in self._then:
                stop()
        elif time.monotonic() - self._at > ONE_SIGNAL_S:
            self.hurry.set()

    def _leave_terminal(self) -> None:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in self._terminals:
            os.dup2(nowhere, fd)
        os.close(nowhere)
        self._terminals = []


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False

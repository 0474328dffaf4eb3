"""`featherwire-edge stream` as a process of its own, by the lines that it writes for people."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.streaming_edge import EDGE, END_S, command, environment


class Speaker:
    """The running command; ``lines`` of standard error grow as it writes them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until_said(self, words: str, *, times: int = 1) -> None:
        """Wait until so many lines have these words in them."""
        self.until(lambda: self.count(words) >= times)

    def count(self, words: str) -> int:
        """How many lines have these words in them."""
        return sum(words in line for line in self.lines)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + END_S
        while not condition():
            assert time.monotonic() < deadline, self.lines
            assert self.process.poll() is None or condition(), self.lines
            time.sleep(0.02)

    def end(self, number: int | None = signal.SIGTERM, timeout_s: float = END_S) -> int:
        """Its exit status, after a signal unless that is None."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(timeout_s)
        self._reader.join(10)
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))


def begun(code: str) -> list[str]:
    """A command that does this before it becomes the command that follows: a process with threads,
    as a test's, forks none that does it itself."""
    program = f"import fcntl, os, signal, sys, termios; {code}; os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", program]


@contextmanager
def speaking(
    *words: object, hangup_ignored: bool = False, stdout: int = subprocess.DEVNULL
) -> Iterator[Speaker]:
    """hangup_ignored: as under nohup."""
    disposition = "SIG_IGN" if hangup_ignored else "SIG_DFL"
    process = subprocess.Popen(
        [*begun(f"signal.signal(signal.SIGHUP, signal.{disposition})"),
         *command(EDGE, "stream", *words)],
        env=environment(),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield Speaker(process)
    finally:
        process.kill()
        process.wait(10)

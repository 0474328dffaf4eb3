"""The demo's processes: the installed commands, started, waited for, and stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY_S = 120
COMMAND_S = 240
STOP_S = 20


class DemoError(RuntimeError):
    """A command of the demo failed; the message says which and how."""


def command(name: str) -> str:
    """The console script beside this Python."""
    return str(Path(sys.executable).parent / name)


def run_json(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command with ``--json`` and return its document. Raises DemoError."""
    done = subprocess.run(
        [*arguments, "--json"], capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    if done.returncode != 0:
        raise DemoError(f"{' '.join(arguments[:2])} ended with {done.returncode}:\n{done.stderr}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@contextmanager
def server(log: Path, *arguments: str) -> Iterator[str]:
    """The HOST:PORT of a server as ``server_process`` runs it."""
    with server_process(log, *arguments) as (address, _):
        yield address


@contextmanager
def server_process(log: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """A running `featherwire-cloud serve` on a free port of this machine: HOST:PORT, process id.

    ``arguments``: more of its options. It is told to stop by SIGTERM at the end, and killed should
    it not have stopped by then.
    """
    with log.open("w") as errors, tempfile.TemporaryDirectory() as data:
        listen = ("--listen", "127.0.0.1:0", "--insecure", "--data", data)
        process = subprocess.Popen(
            [command("featherwire-cloud"), "serve", *listen, *arguments, "--json"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield _address(process, log), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    import threading

    watchdog = threading.Timer(READY_S, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
    finally:
        watchdog.cancel()
    try:
        return str(json.loads(line)["listening"])
    except (ValueError, KeyError):
        raise DemoError(
            f"the server did not start; see {log}:\n{log.read_text()[-2000:]}"
        ) from None

"""Real MQTT brokers, as processes: mosquitto (Debian's package) and amqtt (a Python package)."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

USER, PASSWORD = "warden", "secret"
MOSQUITTO_PATHS = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
AMQTT = """
import asyncio, sys
from amqtt.broker import Broker
port = sys.argv[1]
config = {
    "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}
async def main():
    broker = Broker(config)
    await broker.start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


def why_not(kind: str) -> str | None:
    """Why this broker cannot be had here; None when it can."""
    if kind == "mosquitto":
        found = shutil.which("mosquitto", path=MOSQUITTO_PATHS)
        return None if found else "mosquitto is not installed (Debian's package)"
    return None if importlib.util.find_spec("amqtt") else "amqtt is not installed"


class Broker:
    """A broker on a port; ``kill`` and ``start`` it as often as need be. With ``guarded``
    (mosquitto's) only ``USER`` with ``PASSWORD`` comes in. settings: further lines of mosquitto's
    configuration."""

    def __init__(
        self, kind: str, folder: Path, *, guarded: bool = False, settings: Sequence[str] = ()
    ) -> None:
        self.kind = kind
        self.settings = list(settings)
        self._folder = folder
        self._guarded = guarded
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self._folder / "broker.log").open("ab")
        self._process = subprocess.Popen(self._command(), stdout=log, stderr=subprocess.STDOUT)
        log.close()
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                text = (self._folder / "broker.log").read_text()
                assert self._process.poll() is None, text
                assert time.monotonic() < until, text
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def hang_up(self) -> None:
        """Have mosquitto read its files again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def _command(self) -> list[str]:
        if self.kind == "amqtt":
            return [sys.executable, "-c", AMQTT, str(self.port)]
        program = shutil.which("mosquitto", path=MOSQUITTO_PATHS)
        assert program is not None
        anonymous = str(not self._guarded).lower()
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {anonymous}"]
        if self._guarded:
            words = self._folder / "passwords"
            words.touch()
            make = [program.replace("sbin", "bin") + "_passwd", "-b", str(words), USER, PASSWORD]
            subprocess.run(make, check=True, capture_output=True)
            words.chmod(0o644)
            self._folder.chmod(0o755)
            lines.append(f"password_file {words}")
        config = self._folder / "mosquitto.conf"
        config.write_text("\n".join([*lines, "user root", *self.settings, ""]))
        return [program, "-c", str(config)]

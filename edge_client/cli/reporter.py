"""What a person is told of a stream beside its results: lines on standard error, one a change."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from shared.errors import FeatherwireError
from shared.names import printable
from shared.words import counted

if TYPE_CHECKING:
    from edge_client.sources import CaptureThread
    from shared.wire.commands import Setting


class Reporter:
    """Says what changes: the connection, the source, what an operator has set. Thread-safe."""

    def __init__(
        self,
        server: str,
        spool: Path | None,
        *,
        typed: Mapping[str, Any] | None = None,
        quiet: bool = False,
        event: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        """typed: the options' values by name, as for ``overridden``. quiet: only what is wrong.
        event: takes everything as an event's name and its JSON-ready values; then only what is
        wrong is a line too."""
        self._server = server
        self._spool = spool
        self._typed = typed or {}
        self._quiet = quiet
        self._event = event
        self._lock = threading.Lock()
        # Why the source is away, as far as that was said since it last gave a picture.
        self._away: set[str] = set()

    # -- events of a session ---------------------------------------------------------------------

    def connection(self, error: FeatherwireError | None) -> None:
        """As ``SessionEvents.connection``. What ends the command is left to its last words."""
        from edge_client.session.spooled.sender import FATAL_REASONS

        with self._lock:
            if self._event is not None:
                found = None if error is None else error.to_dict()
                self._event("connection", {"online": error is None, "error": found})
            if error is None:
                self._say(f"connected to {self._server}")
            elif error.reason not in FATAL_REASONS:
                kept = f"; {self._kept}" if self._quiet else ""  # else the first line says it
                self._say(f"not connected: {error.message} [{error.reason}]{kept}", bad=True)

    def setting(self, setting: Setting) -> None:
        """As ``SessionEvents.setting``."""
        text = in_words(setting)
        typed = overridden(setting, self._typed)
        if typed:
            do = "does" if len(typed) == 1 else "do"
            text += f"; {' and '.join(typed)} {do} not count until that is taken back"
        with self._lock:
            if self._event is not None:
                self._event("setting", {"set": kind_of(setting), "text": text, "overrides": typed})
            self._say(text, bad=bool(typed))

    # -- the command itself ----------------------------------------------------------------------

    def begin(self, source: str) -> None:
        """The first line."""
        with self._lock:
            self._say(f"{source} to {self._server}; {self._kept}")

    def look(self, captures: CaptureThread) -> None:
        """Say it when the source has gone away, every reason once, or is back."""
        error = captures.error if captures.state == "away" else None
        text = None if error is None else f"{error.message} [{error.reason}]"
        with self._lock:
            if text is None:
                if self._away:
                    self._say("the source is back")
                self._away.clear()
            elif text not in self._away:
                self._away.add(text)
                self._say(f"the source is away: {text}; it is opened again", bad=True)

    def end(self, status: dict[str, Any]) -> None:
        """The last line."""
        key, predicted = status["key_frames"], status["predicted_frames"]
        kinds = f" ({counted(key, 'key frame')}, {predicted} predicted)" if predicted else ""
        parts = [counted(status["sent"], "frame") + kinds, counted(status["results"], "result")]
        if status["failed"]:
            parts.append(f"{status['failed']} failed")
        damaged = status["source"]["damaged"]
        if damaged:
            parts.append(f"{counted(damaged, 'part')} of the source could not be read")
        with self._lock:
            self._say(f"ended: {', '.join(parts)}", bad=bool(damaged))

    # -- parts -----------------------------------------------------------------------------------

    @property
    def _kept(self) -> str:
        """What becomes of frames that no server takes."""
        if self._spool is not None:
            return f"frames wait in {self._spool}"
        return "frames that no server has taken when this ends are lost (no --spool)"

    def _say(self, text: str, *, bad: bool = False) -> None:
        if bad or not (self._quiet or self._event is not None):
            write_line(sys.stderr, text)


def kind_of(setting: Setting) -> str:
    """What an operator has set, in a word for programs."""
    from shared.wire.commands import BundleCommand, RatePolicy, RegionsCommand, TasksCommand

    names = {RatePolicy: "rate", TasksCommand: "tasks", RegionsCommand: "regions"}
    return "bundle" if isinstance(setting, BundleCommand) else names[type(setting)]


def in_words(setting: Setting) -> str:
    """What an operator has set."""
    from shared.wire.commands import BundleCommand, RatePolicy, RegionsCommand

    if isinstance(setting, RatePolicy):
        if setting == RatePolicy():
            return "an operator has given the rate back to this device"
        return f"an operator has set the rate of this device: {setting.in_words()}"
    if isinstance(setting, RegionsCommand):
        found = counted(len(setting.regions), "region") if setting.regions else "no region"
        return f"an operator has set {found} of the picture"
    if isinstance(setting, BundleCommand):
        return f"an operator has set the bundle: {setting.bundle_id[:16]}"
    return f"an operator has set the tasks: {', '.join(setting.tasks) or 'none'}"


def overridden(setting: Setting, typed: Mapping[str, Any]) -> list[str]:
    """The options as they were typed that do not count, or only in part, beside ``setting``.

    typed: their values by name; None is one that was not typed.
    """
    from shared.wire.commands import BundleCommand, RatePolicy, RegionsCommand

    def given(*names: str) -> list[str]:
        words = [(name, typed.get(name)) for name in names]
        return [f"{name} {_word(value)}" for name, value in words if value is not None]

    if isinstance(setting, RegionsCommand):
        return given("--region")
    if isinstance(setting, BundleCommand):
        return given("--bundle")
    if not isinstance(setting, RatePolicy):
        return given("--tasks")
    found = []
    if setting.state is not None or setting.bits_per_pixel or setting.frame_bytes:
        same = setting.state is not None and typed.get("--state") == setting.state
        found = [] if same else given("--state", "--bpp", "--bytes", "--psnr")
    if (least := setting.max_frames_per_second) and least < (typed.get("--fps") or 0):
        found += given("--fps")
    if (budget := setting.bytes_per_second) is not None:
        found += given("--state")  # or a coarser one
        found += given("--bandwidth") if 8 * budget < (typed.get("--bandwidth") or 0) else []
    return found


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_line(stream: TextIO, text: str) -> None:
    """Write a line at once, whatever names are in it; into a terminal that has gone away it goes
    nowhere."""
    try:
        stream.write(f"{printable(text)}\n")
        stream.flush()
    except OSError as error:
        if error.errno != errno.EIO:
            raise

"""The pictures of a source as photos for a session, as far as they are worth sending."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_client.session import CapturedPhoto, Origin
from edge_client.sources.base import Capture
from edge_client.sources.capture import CaptureThread
from edge_client.sources.gates import MotionGate
from edge_client.sources.spooled import SpooledFiles
from shared.errors import FeatherwireError, PhotoError

TICK_S = 0.2


class Feed:
    """An iterable of photos, with None now and then while there is none.

    It ends with the source, or soon after ``stop`` is set.
    """

    def __init__(
        self,
        captures: CaptureThread,
        gate: MotionGate | None,
        stop: threading.Event,
        failed: Callable[[str, FeatherwireError], None],
        spooled: SpooledFiles | None = None,
        settle: Callable[[Path], object] = lambda file: None,
    ) -> None:
        """failed: called with the name of a picture that cannot be read, and why. spooled: what is
        not sent again; ``settle`` is called with such a file."""
        self._captures = captures
        self._gate = gate
        self._stop = stop
        self._failed = failed
        self._spooled = spooled or SpooledFiles(())
        self._settle = settle
        self._files: dict[str, Path] = {}
        self._counts: Counter[str] = Counter()

    @property
    def sent(self) -> int:
        """How many photos were handed out."""
        return self._counts["sent"]

    def dropped(self) -> dict[str, int]:
        """Pictures that were taken and not sent, by reason: ``limit`` (more than are wanted a
        second), ``overtaken`` (a newer one was there before it was its turn), ``still`` (nothing
        moved), ``unreadable``, ``already_spooled`` (a run before has put it into the spool)."""
        counts = {
            "limit": self._captures.left_out,
            "overtaken": self._captures.overtaken,
            "still": self._counts["still"],
            "unreadable": self._counts["unreadable"],
            "already_spooled": self._spooled.found,
        }
        return {reason: count for reason, count in counts.items() if count}

    def file_of(self, name: str) -> Path | None:
        """The file of a photo that is done with, the first time that it is asked for."""
        return self._files.pop(name, None)

    def __iter__(self) -> Iterator[CapturedPhoto | None]:
        while not self._stop.is_set():
            ended = self._captures.ended
            capture = self._captures.take(TICK_S)
            if capture is not None:
                yield self._photo(capture)
            elif ended:
                return
            else:
                yield None

    def _photo(self, capture: Capture) -> CapturedPhoto | None:
        if capture.file is not None and self._spooled.has(capture.file, capture.captured_at):
            if capture.file.exists():
                self._settle(capture.file)
            return None
        try:
            photo = capture.load()
            moves = (
                self._gate is None
                or isinstance(photo, Path)
                or self._gate.passes(photo, capture.captured_at)
            )
            origin = Origin(capture.name, capture.captured_at)
        except FeatherwireError as error:
            self._unreadable(capture, error)
            return None
        except Exception as error:  # a library's own: one picture's fault, and not the stream's
            logging.getLogger(__name__).exception("a picture cannot be read")
            self._unreadable(capture, PhotoError("unreadable", f"it cannot be read: {error!r}"))
            return None
        if not moves:
            self._counts["still"] += 1
            return None
        if capture.file is not None:
            self._files[capture.name] = capture.file
        self._counts["sent"] += 1
        return CapturedPhoto(photo, origin)

    def _unreadable(self, capture: Capture, error: FeatherwireError) -> None:
        self._counts["unreadable"] += 1
        self._failed(capture.name, error)

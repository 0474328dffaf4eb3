"""A thread that runs a source, opens it again when it fails, and keeps the newest picture."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Literal

from edge_client.sources.base import PERMANENT, Capture, Source
from edge_client.sources.gates import RateGate
from shared.backoff import Backoff
from shared.errors import FeatherwireError, SourceError

State = Literal["opening", "running", "away", "ended", "failed"]


class CaptureThread:
    """Pictures of a source, one at a time: ``take``. Use it in a ``with`` statement.

    A source that lasts (a camera, a stream, a folder) is opened again after a pause that grows,
    for as long as ``patience_s`` seconds without a picture.
    """

    def __init__(
        self,
        source: Source,
        *,
        limit: Callable[[], float | None] = lambda: None,
        patience_s: float = float("inf"),
        backoff: Backoff | None = None,
    ) -> None:
        """limit: pictures a second that are wanted now; None is all of them."""
        self.source = source
        self.state: State = "opening"
        self.error: FeatherwireError | None = None
        """Why the source is away, or has failed."""
        self.captured = 0
        self.reconnects = 0
        self.left_out = 0
        """Pictures that the limit left out."""
        self._gate = RateGate(limit)
        self._patience_s = patience_s
        self._backoff = backoff or Backoff()
        self._mailbox = Mailbox(newest=source.live)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="featherwire-source", daemon=True)

    def __enter__(self) -> CaptureThread:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        # A source that hangs in a read ends with its timeout: nobody waits for that.
        self._thread.join(1.0)

    @property
    def overtaken(self) -> int:
        """How many pictures were replaced by a newer one before they were taken."""
        return self._mailbox.overtaken

    @property
    def ended(self) -> bool:
        """Whether the source has ended; one last picture may still be there to take."""
        return self._ended.is_set()

    def stop(self) -> None:
        """Stop the source; no more pictures come."""
        self._stop.set()
        self._mailbox.close()

    def take(self, timeout_s: float) -> Capture | None:
        """The newest picture, or None when there is none in time."""
        return self._mailbox.take(timeout_s)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._keep_open()
        except FeatherwireError as error:
            self.state, self.error = "failed", error
        except Exception as error:  # a library's own: logged, so that no thread dies in silence
            logging.getLogger(__name__).exception("the source failed")
            self.state = "failed"
            self.error = SourceError("internal_error", f"{self.source.name}: {error}")
        finally:
            self._ended.set()
            self._mailbox.close()

    def _keep_open(self) -> None:
        heard_at = time.monotonic()
        while not self._stop.is_set():
            try:
                with closing(self.source.captures(self._stop)) as captures:  # type: ignore[type-var]
                    for capture in captures:
                        heard_at = time.monotonic()
                        self.state, self.error = "running", None
                        self._backoff.reset()
                        if not self._bring(capture):
                            return
            except SourceError as error:
                waited_s = time.monotonic() - heard_at
                if not self.source.lasting or error.reason in PERMANENT:
                    raise
                if waited_s > self._patience_s:
                    raise SourceError(
                        "source_away", f"{error.message}; given up after {waited_s:.0f} s"
                    ) from None
                self.state, self.error = "away", error
                self._stop.wait(min(self._backoff.next_s(), self._patience_s))
                self.reconnects += not self._stop.is_set()
                continue
            if not self.source.lasting:
                self.state = "ended"
                return

    def _bring(self, capture: Capture) -> bool:
        self.captured += 1
        if self.source.stills:
            self._gate.pause(self._stop, time.monotonic)
            if self._stop.is_set():
                return False
        elif not self._gate.passes(capture.captured_at):
            self.left_out += 1
            return True
        return self._mailbox.put(capture)


class Mailbox:
    """Holds one picture between the source and the encoder. Thread-safe.

    With ``newest`` a new picture replaces one that nobody has taken; without, ``put`` waits.
    """

    def __init__(self, *, newest: bool) -> None:
        self._newest = newest
        self._changed = threading.Condition()
        self._item: Capture | None = None
        self._closed = False
        self.overtaken = 0
        """How many pictures a newer one replaced."""

    def put(self, item: Capture) -> bool:
        """Put a picture in; returns False when the mailbox is closed and nobody will take it."""
        with self._changed:
            if not self._newest:
                self._changed.wait_for(lambda: self._item is None or self._closed)
            if self._closed:
                return False
            self.overtaken += self._item is not None
            self._item = item
            self._changed.notify_all()
            return True

    def take(self, timeout_s: float) -> Capture | None:
        """The picture, or None when none comes in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed, timeout_s)
            item, self._item = self._item, None
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """End all waiting; the picture that is here can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

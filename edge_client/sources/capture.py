"""A thread that runs a source, opens it again when it fails, and keeps the newest picture."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from typing import Literal

from edge_client.sources.base import PERMANENT, Capture, Source
from edge_client.sources.gates import RateGate
from shared.addresses import redacted
from shared.backoff import Backoff
from shared.errors import FeatherwireError, SourceError

State = Literal["opening", "running", "away", "ended", "failed"]


class CaptureThread:
    """Pictures of a source, one at a time: ``take``. Use it in a ``with`` statement.

    A source that lasts (a camera, a stream, a folder) is opened again after a pause that grows,
    for as long as ``patience_s`` seconds without a picture. One that has given a picture is looked
    for again whatever it answers.
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
        self._heard_s = 0.0
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
        finally:
            self._ended.set()
            self._mailbox.close()

    def _keep_open(self) -> None:
        self._heard_s = time.monotonic()
        while not self._stop.is_set():
            error = self._run_source()
            if error is None:
                if self._stop.is_set():
                    return
                if not self.source.lasting:
                    self.state = "ended"
                    return
                continue
            waited_s = time.monotonic() - self._heard_s
            hopeless = error.reason in PERMANENT and not self.captured
            if not self.source.lasting or hopeless:
                raise error
            if waited_s > self._patience_s:
                raise SourceError(
                    "source_away", f"{error.message}; given up after {waited_s:.0f} s"
                )
            self.state, self.error = "away", error
            self._stop.wait(min(self._backoff.next_s(), self._patience_s))
            self.reconnects += not self._stop.is_set()

    def _run_source(self) -> SourceError | None:
        """Open the source, and bring what it gives; returns why it failed, None where it ended."""
        try:
            with closing(self.source.captures(self._stop)) as captures:  # type: ignore[type-var]
                for capture in captures:
                    self._heard_s = time.monotonic()
                    self.state, self.error = "running", None
                    self._backoff.reset()
                    if not self._bring(capture):
                        return None
                    if self.source.polled:
                        self._gate.rest(self._stop)
        except SourceError as error:
            return error
        except FeatherwireError:
            raise
        except Exception as error:  # noqa: BLE001 - a library's own; no thread dies in silence
            trace = redacted(traceback.format_exc())
            logging.getLogger(__name__).error("the source failed\n%s", trace)
            why = redacted(f"{self.source.name}: {error}")
            return SourceError("internal_error", why)
        return None

    def _bring(self, capture: Capture) -> bool:
        self.captured += 1
        if self.source.stills:
            self._gate.pause(self._stop, time.monotonic)
            if self._stop.is_set():
                return False
        elif not self.source.polled and not self._gate.passes(capture.captured_at):
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

"""One picture between the source and the encoder."""

from __future__ import annotations

import threading

from edge_client.sources.base import Capture


class Mailbox:
    """Holds one picture. With ``newest`` a new one takes the place of one that nobody has taken;
    else its bringer waits. Thread-safe."""

    def __init__(self, *, newest: bool) -> None:
        self._newest = newest
        self._changed = threading.Condition()
        self._item: Capture | None = None
        self._closed = False
        self.overtaken = 0
        """Pictures whose place a newer one took."""

    def put(self, item: Capture) -> bool:
        """Bring a picture; whether anybody will take it."""
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
        """Nobody waits any more; what is here can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

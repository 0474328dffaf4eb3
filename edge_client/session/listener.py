"""Who is told what a stream carries."""

from __future__ import annotations

from typing import Protocol

from edge_client.session.pending import Key, Reply


class Listener(Protocol):
    """Who is told what a stream brings, besides the replies that are awaited. From the reader's
    thread, but for ``posted``; an error that these raise ends the stream."""

    def posted(self, key: Key | None, message_bytes: int, *, frame: bool) -> None:
        """A message goes out, which the server will acknowledge by that key; None: it will not.

        Called under the connection's lock: it may not call back.
        """

    def delivered(self, key: Key) -> None:
        """The server has what was posted with this key, or refuses it."""

    def acknowledged(self, sequence: int) -> None:
        """The server has this frame, at the state that was sent."""

    def unclaimed(self, reply: Reply) -> None:
        """A result that no future of this connection awaits: of a stream before."""

    def changed(self) -> None:
        """There is credit, or there will be no more."""

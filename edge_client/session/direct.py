"""Sending without a spool: a frame is lost with the stream that carries it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace

from edge_client.rate import RateControl
from edge_client.session.describe import Photo
from edge_client.session.framing import Outgoing
from edge_client.session.in_flight import InFlight, too_late
from edge_client.session.kept import Part, Refinement
from edge_client.session.opening import Link
from edge_client.session.outgoing import Wishes, make_frame
from edge_client.session.pending import Key, Reply
from edge_client.session.result import FrameResult, failed, received
from edge_client.session.shot import Shot, parts
from shared.errors import FeatherwireError, SessionError


class RateListener:
    """Tells a rate control what a stream carries."""

    def __init__(self, control: RateControl) -> None:
        self._control = control

    def posted(self, key: Key | None, message_bytes: int, *, frame: bool) -> None:
        """A message goes out."""
        self._control.posted(key, message_bytes, frame=frame)

    def delivered(self, key: Key) -> None:
        """The server has what was posted with this key."""
        self._control.acknowledged(key)

    def acknowledged(self, sequence: int) -> None:
        """Nothing keeps the frame that could be let go."""

    def unclaimed(self, reply: Reply) -> None:
        """A repeated result, or one whose caller has given up."""

    def changed(self) -> None:
        """The stream itself lets callers wait for credit."""


class DirectSender:
    """``send`` and ``stream`` over one link."""

    def __init__(self, link: Link, server: str, control: RateControl) -> None:
        self._link = link
        self._server = server
        self._control = control

    def send(self, photo: Photo, wishes: Wishes, *, wait_refined: bool) -> FrameResult:
        """See ``EdgeSession.send``."""
        frame = make_frame(self._link.framer, self._control, photo, wishes)
        sequence, future = self._submit(frame)
        self._finish(sequence, frame)
        reply = self.wait_for(future, frame.deadline_s)
        result = whole(received(reply, photo))
        if not wait_refined or reply.refinement is None:
            return result
        try:
            reply = self.wait_for(reply.refinement, frame.deadline_s)
            more = received(reply, photo, before=result)
        except FeatherwireError as error:
            return replace(result, refine_error=error)
        return more if more.error is None else replace(result, refine_error=more.error)

    def stream(
        self,
        photos: Iterable[Photo | Shot | None],
        wishes: Wishes,
        *,
        window: int | None = None,
        hurry: threading.Event | None = None,
    ) -> Iterator[FrameResult]:
        """See ``EdgeSession.stream``."""
        in_flight = InFlight(self._server)
        for photo in photos:
            if photo is None:
                if in_flight.any_done:
                    yield from in_flight.completed()
                continue
            pixels, source = parts(photo)
            try:
                frame = make_frame(self._link.framer, self._control, pixels, wishes)
            except SessionError:
                raise
            except FeatherwireError as error:
                yield failed(source, error)
                continue
            while window is not None and len(in_flight) >= window:
                yield from in_flight.completed()
            while self._link.connection.credits == 0 and in_flight:
                yield from in_flight.completed()
            try:
                sequence, future = self._submit(frame)
            except SessionError as error:
                if error.reason not in {"message_too_large", "deadline_exceeded"}:
                    while in_flight:
                        yield from in_flight.completed()
                    raise
                yield failed(source, error)
                continue
            in_flight.add(future, source, sequence, frame.deadline_s)
            self._finish(sequence, frame)
            if in_flight.any_done:
                yield from in_flight.completed()
        while in_flight and not (hurry is not None and hurry.is_set()):
            yield from in_flight.completed()

    def refine(self, refinement: Refinement, deadline_s: float) -> FrameResult:
        """Send finer layers of a frame, and wait for what comes of them."""
        self._pace(sum(len(layer.payload) for layer in refinement.layers), deadline_s)
        future = self._link.connection.refine(refinement, deadline_s=deadline_s)
        return whole(received(self.wait_for(future, deadline_s), refinement.sequence))

    def wait_for(self, future: Future[Reply], deadline_s: float) -> Reply:
        """The reply. Raises why there is none, ``deadline_exceeded`` when it is late."""
        try:
            return future.result(deadline_s)
        except FutureTimeoutError:
            raise too_late(self._server, deadline_s) from None

    def _submit(self, frame: Outgoing) -> tuple[int, Future[Reply]]:
        size = sum(part.sent.file_bytes for part in frame.parts if part.sent is not None)
        self._pace(size, frame.deadline_s)
        sequence, future = self._link.connection.submit(
            frame.parts,
            tasks=frame.tasks,
            picture=frame.picture,
            deadline_s=frame.deadline_s,
            later=frame.later,
            more=frame.make_others is not None,
            traceparent=frame.traceparent,
        )
        return sequence, future

    def _pace(self, size: int, deadline_s: float) -> None:
        """Wait until the bandwidth has room; not for longer than the deadline."""
        deadline = time.monotonic() + deadline_s
        while (wait_s := self._control.wait_s(size)) > 0:
            if self._link.connection.failure is not None or time.monotonic() > deadline:
                break  # which the connection then says
            time.sleep(min(wait_s, 0.25))

    def _finish(self, sequence: int, frame: Outgoing) -> None:
        """Encode what is only kept, while the frame is on its way."""
        if frame.make_others is not None:
            self._link.connection.finish(sequence, others_of(sequence, frame))


def others_of(sequence: int, frame: Outgoing) -> tuple[Part, ...]:
    """The parts of which nothing is sent; none, with a warning, when they cannot be made."""
    assert frame.make_others is not None
    try:
        return frame.make_others()
    except FeatherwireError as error:
        logging.getLogger(__name__).warning(
            "warning: frame %d cannot be refined: %s", sequence, error.message
        )
        return ()


def whole(result: FrameResult) -> FrameResult:
    """``result``, unless the frame as a whole failed: then its error is raised."""
    if result.error is not None:
        raise result.error
    return result

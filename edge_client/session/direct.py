"""Sending without a spool: a frame is lost with the stream that carries it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, replace
from typing import Any

from edge_client.rate import RateControl
from edge_client.session.connection import Connection
from edge_client.session.encoding import Photo
from edge_client.session.frames import (
    CapturedPhoto,
    Framer,
    Outgoing,
    Wishes,
    blames_photo,
    make_frame,
    parts,
    taken_at,
)
from edge_client.session.refinement_store import Part, Refinement
from edge_client.session.results import FrameResult, Reply, failed, received
from shared.backoff import Backoff
from shared.errors import BitstreamError, FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2, ingest_pb2_grpc
from shared.rpc.errors import CallError, error_from_call
from shared.wire.device_events import Key
from shared.wire.features import features_message
from shared.wire.requests import picture_request_message
from shared.wire.results import outcome_from_message


class RateListener:
    """Tells a rate control what a stream carries."""

    def __init__(self, control: RateControl) -> None:
        self._control = control

    def posted(self, key: Key | None, message_bytes: int, *, frame: bool) -> None:
        """A message goes out."""
        self._control.posted(key, message_bytes, frame=frame)

    def delivered(self, key: Key, held_s: float = 0.0) -> None:
        """The server has what was posted with this key, and had it for ``held_s`` seconds."""
        self._control.acknowledged(key, held_s)

    def acknowledged(self, sequence: int) -> None:
        """Nothing keeps the frame that could be let go."""

    def unclaimed(self, reply: Reply) -> None:
        """A repeated result, or one whose caller has given up."""

    def changed(self) -> None:
        """The stream itself lets callers wait for credit."""


class DirectExchange:
    """``send`` and ``stream`` over one connection."""

    refusal = None
    """With a connection nobody refuses this device."""

    def __init__(self, connection: Connection, control: RateControl) -> None:
        """connection: open; it is closed with this."""
        self.connection = connection
        self._server = connection.server
        self._control = control

    def open(self) -> None:
        """It is open with its connection."""

    def close(self, timeout_s: float = 10.0) -> None:
        """End the stream; frames in flight have so long to come back."""
        self.connection.close(timeout_s)

    @property
    def framer(self) -> Framer:
        """What makes frames for this server."""
        return self.connection.framer

    def send(self, photo: Photo, wishes: Wishes, *, wait_refined: bool) -> FrameResult:
        """See ``EdgeSession.send``."""
        frame = self._make(photo, wishes)
        sequence, future = self._submit(frame)
        self._finish(sequence, frame)
        reply = self.wait_for(future, frame.deadline_s, hard=frame.hard_deadline)
        result = whole(received(reply, photo))
        if not wait_refined or reply.refinement is None:
            return result
        try:
            reply = self.wait_for(reply.refinement, frame.deadline_s, hard=frame.hard_deadline)
            more = received(reply, photo, before=result)
        except FeatherwireError as error:
            return replace(result, refine_error=error)
        return more if more.error is None else replace(result, refine_error=more.error)

    def stream(
        self,
        photos: Iterable[Photo | CapturedPhoto | None],
        wishes: Wishes,
        *,
        window: int | None = None,
        hurry: threading.Event | None = None,
    ) -> Generator[FrameResult, None, None]:
        """See ``EdgeSession.stream``."""
        in_flight = InFlight(self.connection)
        encoded = False
        for photo in photos:
            if photo is None:
                if in_flight.any_done:
                    yield from in_flight.completed()
                continue
            pixels, source = parts(photo)
            try:
                made = self._make(pixels, wishes, taken_at(source))
                frame = replace(made, captured_at=taken_at(source))
                encoded = True
            except FeatherwireError as error:
                if not blames_photo(error, encoded=encoded):
                    raise
                yield failed(source, error)
                continue
            while window is not None and len(in_flight) >= window:
                yield from in_flight.completed()
            while self.connection.credits == 0 and in_flight:
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
            except BitstreamError as error:  # of what was encoded elsewhere
                yield failed(source, error)
                continue
            in_flight.add(future, source, sequence, frame)
            self._finish(sequence, frame)
            if in_flight.any_done:
                yield from in_flight.completed()
        while in_flight and not (hurry is not None and hurry.is_set()):
            yield from in_flight.completed()

    def refine(self, refinement: Refinement, deadline_s: float) -> FrameResult:
        """Send finer layers of a frame, and wait for what comes of them."""
        self._pace(sum(len(layer.payload) for layer in refinement.layers), deadline_s)
        future = self.connection.refine(refinement, deadline_s=deadline_s)
        hard = self.connection.framer.hard_deadline
        reply = self.wait_for(future, deadline_s, hard=hard)
        return whole(received(reply, refinement.sequence))

    def wait_for(self, future: Future[Reply], deadline_s: float, *, hard: bool) -> Reply:
        """The reply. Raises why there is none, ``deadline_exceeded`` when it is late."""
        began = time.monotonic()
        while True:
            left_s = self.connection.time_of(began, hard=hard) + deadline_s - time.monotonic()
            try:
                return future.result(max(0.0, left_s))
            except FutureTimeoutError:
                if left_s <= 0:
                    raise too_late(self._server, deadline_s) from None

    def _make(self, photo: Photo, wishes: Wishes, captured_at: float | None = None) -> Outgoing:
        connection = self.connection
        sequence = connection.next_sequence
        return make_frame(connection.framer, self._control, photo, wishes, sequence, captured_at)

    def _submit(self, frame: Outgoing) -> tuple[int, Future[Reply]]:
        self._pace(frame.file_bytes, frame.deadline_s)
        return self.connection.submit(frame)

    def _pace(self, size: int, deadline_s: float) -> None:
        """Wait until the bandwidth has room; not for longer than the deadline."""
        deadline = time.monotonic() + deadline_s
        while (wait_s := self._control.wait_s(size)) > 0:
            if self.connection.failure is not None or time.monotonic() > deadline:
                break  # the connection then raises why
            time.sleep(min(wait_s, 0.25))

    def _finish(self, sequence: int, frame: Outgoing) -> None:
        """Encode what is only kept, while the frame is on its way."""
        if frame.make_others is not None:
            self.connection.finish(sequence, others_of(sequence, frame))


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


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A frame that is not back; ``sent_at`` is of ``time.monotonic``.

    ``hard``: the deadline is nobody's to put off. ``before``: the result that is being refined, if
    that is what is awaited.
    """

    photo: Any
    sequence: int
    sent_at: float
    deadline_s: float
    hard: bool = False
    before: FrameResult | None = None


class InFlight:
    """Futures of frames, and of the refinements that the server asks for."""

    def __init__(self, connection: Connection) -> None:
        """connection: on which they are in flight."""
        self._connection = connection
        self._awaited: dict[Future[Reply], _Awaited] = {}

    def __len__(self) -> int:
        return len(self._awaited)

    @property
    def any_done(self) -> bool:
        """Whether ``completed`` would not wait."""
        return any(future.done() for future in self._awaited)

    def add(self, future: Future[Reply], photo: Any, sequence: int, frame: Outgoing) -> None:
        """A frame has been sent."""
        self._awaited[future] = _Awaited(
            photo, sequence, time.monotonic(), frame.deadline_s, frame.hard_deadline
        )

    def completed(self) -> Iterator[FrameResult]:
        """Wait for one frame at least, or for its deadline; yield what has ended.

        What has ended is forgotten, and a refinement of it that is to come takes its place. When
        the session has failed this raises why, after all that did come back.
        """
        first_s = min(map(self._late_at, self._awaited.values()))
        wait_for(
            self._awaited,
            timeout=max(0.0, first_s - time.monotonic()),
            return_when=FIRST_COMPLETED,
        )
        failure: BaseException | None = None
        for future, one in list(self._awaited.items()):
            if future.done():
                del self._awaited[future]
                error = future.exception()
                if error is None:
                    yield self._received(future.result(), one)
                elif one.before is not None and isinstance(error, FeatherwireError):
                    if error.reason == "not_refinable":
                        continue  # the server asked for what was never kept
                    yield failed(one.photo, error, sequence=one.sequence, before=one.before)
                else:
                    failure = failure or error
            elif time.monotonic() >= self._late_at(one):
                del self._awaited[future]
                future.cancel()
                late = too_late(self._connection.server, one.deadline_s)
                yield failed(one.photo, late, sequence=one.sequence, before=one.before)
        if failure is not None:
            raise failure

    def _late_at(self, one: _Awaited) -> float:
        return self._connection.time_of(one.sent_at, hard=one.hard) + one.deadline_s

    def _received(self, reply: Reply, one: _Awaited) -> FrameResult:
        result = received(reply, one.photo, before=one.before)
        if reply.refinement is not None:
            again = replace(one, sent_at=time.monotonic(), before=result)
            self._awaited[reply.refinement] = again
        return result


def too_late(server: str, deadline_s: float) -> SessionError:
    """The error of a frame that is not back in time."""
    return SessionError("deadline_exceeded", f"{server} gave no result within {deadline_s:g} s")


def analyze(connection: Connection, photo: Photo, wishes: Wishes) -> FrameResult:
    """See ``EdgeSession.analyze``."""
    frame = connection.framer.frame(photo, wishes, keep=False)
    sent = frame.sent
    request = ingest_pb2.AnalyzeRequest(
        features=[features_message(bitstream) for bitstream in sent],
        tasks=frame.tasks,
        picture=picture_request_message(frame.picture),
    )
    stub = ingest_pb2_grpc.IngestServiceStub(connection.channel)
    backoff, deadline = Backoff(), time.monotonic() + frame.deadline_s
    while True:
        started = time.perf_counter()
        try:
            response = stub.Analyze(request, timeout=max(0.001, deadline - time.monotonic()))
            break
        except CallError as error:
            why = error_from_call(error, connection.server)
        pause_s = backoff.next_s()
        if why.reason != "busy" or time.monotonic() + pause_s >= deadline:
            raise why
        time.sleep(pause_s)
    reply = Reply(
        outcome_from_message(response.outcome),
        0,
        sent[0].state,
        (time.perf_counter() - started) * 1e3,
        sent[0].bundle_id,
        frame.file_bytes,
        sent[0].passes,
    )
    return whole(received(reply, photo))

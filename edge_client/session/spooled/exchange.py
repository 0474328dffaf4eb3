"""Sending with a spool: a frame is on the disk before it is on its way."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace

from edge_client.rate import RateControl
from edge_client.session.connection import Connection
from edge_client.session.direct import others_of, too_late, whole
from edge_client.session.encoding import Photo
from edge_client.session.events import SessionEvents
from edge_client.session.frames import (
    CapturedPhoto,
    Framer,
    Origin,
    Outgoing,
    Wishes,
    blames_photo,
    make_frame,
    parts,
    taken_at,
)
from edge_client.session.opening import DeviceSettings, Opener
from edge_client.session.refinement_store import RefinementStore
from edge_client.session.results import FrameResult, failed
from edge_client.session.spooled.sender import ACCESS_REASONS, SpoolSender
from edge_client.spool import Spool
from shared.errors import FeatherwireError, SessionError, SpoolError
from shared.names import text_of

POLL_S = 0.2
MAX_FRAMES = 64
PACED_FRAMES = 3
"""Frames without a result, while there is a stream, at which ``stream`` waits."""


class SpooledExchange:
    """``send``, ``stream`` and ``flush`` through a spool and its sender."""

    def __init__(
        self,
        spool: Spool,
        opener: Opener,
        settings: DeviceSettings,
        store: RefinementStore,
        control: RateControl,
        patience_s: float,
        events: SessionEvents,
        hurry: threading.Event | None = None,
    ) -> None:
        """patience_s: how long a caller waits for results while there is no server. hurry: once it
        is set, ``open`` waits for nothing."""
        self._spool = spool
        self._opener = opener
        self._settings = settings
        self._store = store
        self._control = control
        self._patience_s = patience_s
        self._hurry = hurry
        self._sender = SpoolSender(
            spool,
            self._open_connection,
            store=store,
            rate=control,
            tell=events.connection,
            renewed=opener.groups.begin,
        )
        self._offline: Framer | None = None

    def open(self) -> None:
        """Begin to connect, and wait for the first attempt to end.

        Raises why it is no use to connect again, unless that is only that this device is not let
        in, which ``refusal`` then says.
        """
        self._sender.start()
        self._sender.wait_connected(self._patience_s, self._hurry)
        fatal = self._sender.fatal
        if fatal is not None and fatal.reason not in ACCESS_REASONS:
            raise fatal

    def close(self, timeout_s: float = 10.0) -> None:
        """End the stream; what is not acknowledged by then stays in the spool."""
        self._sender.close(timeout_s)

    @property
    def connection(self) -> Connection | None:
        """The open stream, if there is one."""
        return self._sender.connection

    @property
    def why_offline(self) -> FeatherwireError | None:
        """Why there is no stream; None while there is one."""
        return None if self._sender.connection is not None else self._sender.last_error

    @property
    def refusal(self) -> FeatherwireError | None:
        """Why there will be no further stream."""
        return self._sender.fatal

    @property
    def framer(self) -> Framer:
        """Of the stream, or, without one, of the bundle on which a server agreed last."""
        connection = self._sender.connection
        if connection is not None:
            self._offline = connection.framer
        if self._offline is None:
            self._offline = self._opener.offline(
                self._spool.setting("bundle"),
                self._spool.setting("format_version"),
                self._spool.setting("takes_predicted"),
            )
        return self._offline

    def _open_connection(self, listener: SpoolSender) -> Connection:
        connection = self._opener.open(
            self._spool.session,
            self._store,
            last_result_seen=self._spool.last_result_seen,
            awaited=tuple(self._spool.awaited()),
            listener=listener,
            take_setting=self._settings.take,
            failing=listener.failing,
            renews=True,
        )
        self._settings.follow(connection)
        return connection

    def send(self, photo: Photo, wishes: Wishes, *, wait_refined: bool) -> FrameResult:
        """See ``EdgeSession.send``; results of other frames wait for ``stream`` or ``flush``."""
        sequence = self._put(photo, photo, wishes)
        found: FrameResult | None = None
        for result in self._results({sequence}, refined=wait_refined):
            found = result
        assert found is not None, "a frame that waits has a result, or one that says spooled"
        if found.refined and found.error is not None and found.before is not None:
            return replace(found.before, refine_error=found.error)
        return whole(found)

    def stream(
        self,
        photos: Iterable[Photo | CapturedPhoto | None],
        wishes: Wishes,
        *,
        window: int | None = None,
        hurry: threading.Event | None = None,
    ) -> Generator[FrameResult, None, None]:
        """See ``EdgeSession.stream``; what an earlier process has spooled comes too."""
        encoded = False
        for photo in photos:
            if photo is not None:
                pixels, source = parts(photo)
                try:
                    self._put(pixels, source, wishes)
                    encoded = True
                except FeatherwireError as error:
                    if not blames_photo(error, encoded=encoded):
                        raise
                    yield failed(source, error)
            self._give_up_late()
            yield from self._ready(None)
            # While a server takes frames there is no need to let the spool overflow, nor to choose
            # states for a time to come.
            most = min(window or MAX_FRAMES, PACED_FRAMES if self._control.active else MAX_FRAMES)
            while (
                self._sender.connection is not None
                and self._sender.answers.unanswered >= most
                and not (hurry is not None and hurry.is_set())
            ):
                self._give_up_late()
                self._sender.answers.wait(POLL_S)
                yield from self._ready(None)
        yield from self._results(None, hurry=hurry)

    def flush(self) -> Iterator[FrameResult]:
        """Every result that is still to come; what no server takes now stays, and says so."""
        yield from self._results(None)

    def _put(self, photo: Photo, source: Photo | Origin, wishes: Wishes) -> int:
        framer, spool, groups = self.framer, self._spool, self._opener.groups
        last, reached = spool.newest
        groups.follow(last, reached)
        if spool.wants_key_frame:
            groups.begin()
        frame = replace(
            make_frame(framer, self._control, photo, wishes, last + 1, taken_at(source)),
            captured_at=taken_at(source),
        )

        def put() -> int:
            message, default_tasks = framer.for_spool(frame, wishes.tasks)
            return spool.put(
                message, source=_name(source), default_tasks=default_tasks, grows=frame.grows
            )

        def enqueue() -> int:
            nonlocal frame
            frame = frame.numbered(spool.last_sequence + 1)
            try:
                sequence = put()
            except SpoolError as error:
                if error.reason != "needs_key_frame":
                    raise
                groups.begin()
                frame = frame.numbered(spool.last_sequence + 1)
                sequence = put()
            frame.on_its_way()
            return sequence

        def keep(sequence: int) -> None:
            more = frame.make_others is not None
            self._store.keep(sequence, frame.parts, *frame.later, more=more)

        sequence = self._sender.put(
            enqueue, source, frame.deadline_s, keep, hard=frame.hard_deadline
        )
        self._finish(sequence, frame)
        return sequence

    def _finish(self, sequence: int, frame: Outgoing) -> None:
        if frame.make_others is None:
            return
        parts = others_of(sequence, frame)
        connection = self._sender.connection
        if connection is not None:
            connection.finish(sequence, parts)
        else:
            self._store.finish(sequence, parts)

    def _ready(self, wanted: set[int] | None) -> Iterator[FrameResult]:
        """Results that are here; of these frames, or of all."""
        while (item := self._sender.answers.take(wanted)) is not None:
            try:
                yield item.result
            finally:
                self._sender.answers.handed(item)

    def _results(
        self,
        wanted: set[int] | None,
        *,
        refined: bool = False,
        hurry: threading.Event | None = None,
    ) -> Iterator[FrameResult]:
        """Results until all wanted frames (None: all) have one, or none can be expected."""
        while True:
            yield from self._ready(wanted)
            waiting = self._sender.answers.waiting()
            left = [s for s in waiting if wanted is None or s in wanted]
            if not left:
                owed = self._sender.answers.owes_refinement(wanted if refined else None)
                if not owed or (hurry is not None and hurry.is_set()):
                    yield from self._ready(wanted)
                    return
                self._sender.answers.wait(POLL_S)
                continue
            hurried = hurry is not None and hurry.is_set()
            away = self._sender.down_s() > self._patience_s
            if hurried or away or self._sender.fatal is not None:
                for sequence in left:
                    yield self._spooled(sequence, waiting[sequence])
                return
            self._give_up_late()
            self._sender.answers.wait(POLL_S)

    def _give_up_late(self) -> None:
        for sequence, deadline_s in self._sender.answers.late():
            self._sender.answers.give_up(sequence, too_late(self._opener.server, deadline_s))

    def _spooled(self, sequence: int, source: object) -> FrameResult:
        why = self._sender.last_error
        text = f": {why.message}" if why is not None else ""
        error = SessionError(
            "spooled",
            f"frame {sequence} is kept in {self._spool.folder} until a server takes it{text}",
        )
        return failed(source, error, sequence=sequence)


def _name(source: Photo | Origin) -> str:
    if hasattr(source, "shape") or isinstance(source, bytes):
        return ""
    return text_of(str(source))

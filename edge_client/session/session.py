"""EdgeSession: photos out, results in, over one stream."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import grpc

from edge_client.session.bundles import obtain_bundle
from edge_client.session.channel import (
    TlsClientFiles,
    error_from_call,
    open_channel,
    wait_until_ready,
)
from edge_client.session.connection import Connection
from edge_client.session.describe import Describer, Photo
from edge_client.session.framing import Framer, Outgoing, SendWith
from edge_client.session.identity import default_device_name, package_version
from edge_client.session.in_flight import InFlight, too_late
from edge_client.session.kept import KEPT_BYTES, KEPT_FRAMES, KeptFrames, Part
from edge_client.session.pending import Reply
from edge_client.session.result import FrameResult, failed, received
from edge_client.session.wishes import (
    PictureWish,
    picture_request,
)
from shared.bundle import Bundle, packaged_bundle_of
from shared.codec import RateTarget
from shared.errors import BundleError, FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2, ingest_pb2_grpc
from shared.wire.features import features_message
from shared.wire.requests import Hello, parse_tasks, picture_request_message
from shared.wire.results import outcome_from_message

if TYPE_CHECKING:
    from edge_client.encoder import EdgeEncoder

BundleSource = Bundle | str | Path


class EdgeSession:
    """A session with one server. Open it with ``with``; use it from one thread at a time.

    server: HOST:PORT.
    device: a stable name of this machine; its host name when None.
    session: which numbering of frames; a fresh one when None.
    bundle: a Bundle, or a folder, zip or name. None takes the packaged one, or the server's own,
        fetched once and cached, when the server wants another.
    encoder: an ``EdgeEncoder`` to share between sessions; its bundle is used then.
    also: further bundles, as for ``bundle``. Each photo is encoded with them too, once it is on
        its way, and what is not sent is kept here for when the server asks for it, or ``refine``
        does: of the last ``kept_frames`` frames, in ``kept_bytes`` bytes at most.
    tasks: what runs when a call names no tasks; None is every task that the server has.
    deadline_s: how long a frame may take; None is the server's deadline for its size and a little
        more.
    """

    def __init__(
        self,
        server: str,
        *,
        device: str | None = None,
        session: str | None = None,
        bundle: BundleSource | None = None,
        encoder: EdgeEncoder | None = None,
        also: Iterable[BundleSource] = (),
        tasks: Iterable[str] | None = None,
        threads: int = 1,
        tls: TlsClientFiles | None = None,
        connect_timeout_s: float = 10.0,
        deadline_s: float | None = None,
        bundle_cache_dir: Path | None = None,
        kept_frames: int = KEPT_FRAMES,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.server = server
        self.device = device or default_device_name()
        self.session = session or uuid.uuid4().hex
        self._given_bundle = encoder.bundle if encoder is not None else bundle
        self._given_also = tuple(also)
        self._encoder = encoder
        self._default_tasks = None if tasks is None else parse_tasks(tasks)
        self._threads = threads
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._deadline_s = deadline_s
        self._bundle_cache_dir = bundle_cache_dir
        self._channel: grpc.Channel | None = None
        self._connection: Connection | None = None
        self._framer: Framer | None = None
        self._kept = KeptFrames(kept_frames, kept_bytes)

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> EdgeSession:
        """Connect, agree on a bundle, and be ready to send; ``with`` calls this.

        Raises ``SessionError`` (unreachable, refused, bundle_mismatch, unsupported_version, ...)
        and ``BundleError`` when the bundle cannot be had.
        """
        if self._connection is not None:
            return self
        mine = None if self._given_bundle is None else _load(self._given_bundle)
        also = [_load(source) for source in self._given_also]
        self._channel = open_channel(self.server, self._tls)
        try:
            wait_until_ready(
                self._channel,
                self.server,
                self._connect_timeout_s,
                tls=self._tls is not None,
            )
            hello = Hello(
                device=self.device,
                session=self.session,
                bundle_id=mine.id if mine is not None else None,
                can_switch_bundle=self._given_bundle is None,
                client_version=package_version(),
                also_bundle_ids=tuple(bundle.id for bundle in also),
            )
            self._connection = Connection(
                self._channel,
                self.server,
                hello,
                kept=self._kept,
                timeout_s=self._connect_timeout_s,
            )
            welcome = self._connection.welcome
            accepted = welcome.accepted_bundle_ids or [welcome.bundle_id]
            if mine is None or mine.id not in accepted:
                mine = _packaged(welcome.bundle_id) or obtain_bundle(
                    self._channel, self.server, welcome.bundle_id, cache_dir=self._bundle_cache_dir
                )
            for bundle in also:
                if bundle.id not in accepted:
                    raise _refused(bundle, self.server)
            shared = self._encoder if self._encoder and self._encoder.bundle.id == mine.id else None
            given = {
                str(source): bundle
                for source, bundle in zip(self._given_also, also, strict=True)
                if not isinstance(source, Bundle)
            }
            self._framer = Framer(
                Describer(mine, also, encoder=shared, threads=self._threads),
                welcome.settings,
                also=given,
                tasks=self._default_tasks,
                deadline_s=self._deadline_s,
            )
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the session; frames in flight have ten seconds to come back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __enter__(self) -> EdgeSession:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- facts -----------------------------------------------------------------------------------

    @property
    def bundle(self) -> Bundle:
        """The bundle on which both ends agreed."""
        return self._framing().describer.bundle

    @property
    def also(self) -> tuple[Bundle, ...]:
        """The bundles with which photos are encoded beside it."""
        return tuple(self._framing().describer.also.values())

    @property
    def credits(self) -> int:
        """Frames that may be sent at once without waiting."""
        return self._open_connection().credits

    @property
    def available_tasks(self) -> tuple[str, ...]:
        """Tasks that this server can run, on what one or another bundle says of a picture."""
        return self._framing().server_tasks.available

    @property
    def unavailable_tasks(self) -> dict[str, FeatherwireError]:
        """Tasks that this server cannot run, and why."""
        return dict(self._framing().server_tasks.unavailable)

    @property
    def encoder(self) -> EdgeEncoder:
        """The encoder for the agreed bundle, made when it is first needed."""
        return self._framing().describer.encoder(self.bundle)

    # -- sending ---------------------------------------------------------------------------------

    def send(
        self,
        photo: Photo,
        *,
        tasks: Iterable[str] | None = None,
        picture: PictureWish = None,
        state: int | None = None,
        bits_per_pixel: float | None = None,
        max_bytes: int | None = None,
        psnr_db: float | None = None,
        best_effort: bool = False,
        refinable: bool = False,
        send_with: SendWith = (),
        wait_refined: bool = False,
    ) -> FrameResult:
        """Send one photo and wait for its result.

        At most one of ``state``, ``bits_per_pixel``, ``max_bytes`` and ``psnr_db``, which mean what
        they mean to ``EdgeEncoder.encode``; none is the finest state. ``refinable`` keeps the finer
        layers here, so that ``refine`` can send them later. ``send_with`` sends what these of the
        ``also`` bundles say of the photo in the same frame. A task, or a picture, that only a
        bundle which is kept back would be enough for is asked for when that is sent.

        With ``wait_refined``, when the server asks for more of this frame after its result, what
        comes of that is returned (``refined``, with the first result as ``before``); when it fails
        the first result is, with ``refine_error``.
        Raises ``FeatherwireError`` when the photo, the frame or the session fails; a task that
        fails alone is in ``result.task_errors``.
        """
        rate = RateTarget(state, bits_per_pixel, max_bytes, psnr_db, best_effort)
        frame = self._framing().frame(photo, rate, tasks, picture, refinable, send_with)
        sequence, future = self._submit(frame)
        self._finish(sequence, frame)
        reply = self._await(future, frame.deadline_s)
        result = _whole(received(reply, photo))
        if not wait_refined or reply.refinement is None:
            return result
        try:
            more = received(self._await(reply.refinement, frame.deadline_s), photo, before=result)
        except FeatherwireError as error:
            return replace(result, refine_error=error)
        return more if more.error is None else replace(result, refine_error=more.error)

    def stream(
        self,
        photos: Iterable[Photo],
        *,
        tasks: Iterable[str] | None = None,
        picture: PictureWish = None,
        state: int | None = None,
        bits_per_pixel: float | None = None,
        max_bytes: int | None = None,
        psnr_db: float | None = None,
        best_effort: bool = False,
        refinable: bool = False,
        send_with: SendWith = (),
    ) -> Iterator[FrameResult]:
        """Send many photos, with as many in flight as the server gives credits for.

        Yields each result as it completes, which need not be the order of ``photos``; its
        ``source`` is the photo. Where the server asks for more of a frame after its result, what
        comes of that is a further result, with ``refined`` set. A photo that cannot be encoded, or
        fails at the server, yields a result with ``error`` set, and the rest go on; so does one
        that is not back within its deadline. Raises ``SessionError`` when the session itself fails,
        after it has yielded all that came back.
        """
        wanted = None if tasks is None else parse_tasks(tasks)
        request = picture_request(picture)
        rate = RateTarget(state, bits_per_pixel, max_bytes, psnr_db, best_effort)
        framing = self._framing()
        with_ = framing.at_once(send_with)
        in_flight = InFlight(self.server)
        for photo in photos:
            try:
                frame = framing.frame(photo, rate, wanted, request, refinable, with_)
            except SessionError:
                raise
            except FeatherwireError as error:
                yield failed(photo, error)
                continue
            while self._open_connection().credits == 0 and in_flight:
                yield from in_flight.completed()
            try:
                sequence, future = self._submit(frame)
            except SessionError as error:
                if error.reason not in {"message_too_large", "deadline_exceeded"}:
                    while in_flight:
                        yield from in_flight.completed()
                    raise
                yield failed(photo, error)
                continue
            in_flight.add(future, photo, sequence, frame.deadline_s)
            self._finish(sequence, frame)
            if in_flight.any_done:
                yield from in_flight.completed()
        while in_flight:
            yield from in_flight.completed()

    def refine(
        self,
        sequence: int,
        *,
        state: int = 0,
        bundle: str | None = None,
        tasks: Iterable[str] | None = None,
        picture: PictureWish = None,
    ) -> FrameResult:
        """Send the layers that a frame still lacks up to ``state``.

        Of the frame's first bundle (sent with ``refinable=True``), or of ``bundle``, one of
        ``also`` by name or id; such layers begin with the coarsest state, and none finer than the
        finest that a bitstream goes on to are sent. Raises ``SessionError("not_refinable")`` when
        they are no longer here, and ``refine_evicted`` when the server no longer has the layers
        before them.
        """
        framing = self._framing()
        short_id = b"" if bundle is None else framing.also(bundle).short_id
        refinement = self._kept.refinement(sequence, short_id, state)
        ids = (*self._kept.sent_bundles(sequence), refinement.bundle_id)
        refinement = replace(
            refinement,
            tasks=framing.wanted_tasks(tasks, framing.describer.bundles(dict.fromkeys(ids))),
            picture=picture_request(picture),
        )
        deadline_s = framing.deadline_of(*self._kept.size(sequence))
        future = self._open_connection().refine(refinement, deadline_s=deadline_s)
        result = _whole(received(self._await(future, deadline_s), sequence))
        self._kept.sent(refinement)
        return result

    def analyze(
        self,
        photo: Photo,
        *,
        tasks: Iterable[str] | None = None,
        picture: PictureWish = None,
        state: int | None = None,
        bits_per_pixel: float | None = None,
        max_bytes: int | None = None,
        psnr_db: float | None = None,
        best_effort: bool = False,
        send_with: SendWith = (),
    ) -> FrameResult:
        """Like ``send``, as one unary call outside the stream: no credits, no sequence, and
        nothing is kept."""
        rate = RateTarget(state, bits_per_pixel, max_bytes, psnr_db, best_effort)
        self._open_connection()
        frame = self._framing().frame(photo, rate, tasks, picture, False, send_with, keep=False)
        assert self._channel is not None
        sent = [part.sent for part in frame.parts if part.sent is not None]
        request = ingest_pb2.AnalyzeRequest(
            features=[features_message(bitstream) for bitstream in sent],
            tasks=frame.tasks,
            picture=picture_request_message(frame.picture),
        )
        started = time.perf_counter()
        try:
            response = ingest_pb2_grpc.IngestServiceStub(self._channel).Analyze(
                request, timeout=frame.deadline_s
            )
        except grpc.RpcError as error:
            raise error_from_call(error, self.server) from None
        reply = Reply(
            outcome_from_message(response.outcome),
            0,
            sent[0].state,
            (time.perf_counter() - started) * 1e3,
            sent[0].bundle_id,
            sum(bitstream.file_bytes for bitstream in sent),
            sent[0].passes,
        )
        return _whole(received(reply, photo))

    # -- parts -----------------------------------------------------------------------------------

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise SessionError("closed", "this session is not open; use it in a with statement")
        return self._connection

    def _framing(self) -> Framer:
        self._open_connection()
        assert self._framer is not None
        return self._framer

    def _submit(self, frame: Outgoing) -> tuple[int, Future[Reply]]:
        return self._open_connection().submit(
            frame.parts,
            tasks=frame.tasks,
            picture=frame.picture,
            deadline_s=frame.deadline_s,
            later=frame.later,
            more=frame.make_others is not None,
        )

    def _finish(self, sequence: int, frame: Outgoing) -> None:
        """Encode what is only kept, while the frame is on its way."""
        if frame.make_others is None:
            return
        parts: tuple[Part, ...] = ()
        try:
            parts = frame.make_others()
        except FeatherwireError as error:
            logging.getLogger(__name__).warning(
                "warning: frame %d cannot be refined: %s", sequence, error.message
            )
        finally:
            self._open_connection().finish(sequence, parts)

    def _await(self, future: Future[Reply], deadline_s: float) -> Reply:
        try:
            return future.result(deadline_s)
        except FutureTimeoutError:
            raise too_late(self.server, deadline_s) from None


def _packaged(bundle_id: str) -> Bundle | None:
    """The bundle of that id, where it comes with Featherwire and is not damaged."""
    with suppress(BundleError, ValueError):
        found = packaged_bundle_of(bytes.fromhex(bundle_id[:16]))
        return found if found is not None and found.id == bundle_id else None
    return None


def _load(source: BundleSource) -> Bundle:
    return source if isinstance(source, Bundle) else Bundle.load(source)


def _refused(bundle: Bundle, server: str) -> SessionError:
    return SessionError(
        "bundle_mismatch",
        f"{server} does not take bundle {bundle.manifest.name} ({bundle.id})",
        bundle_id=bundle.id,
    )


def _whole(result: FrameResult) -> FrameResult:
    """``result``, unless the frame as a whole failed: then its error is raised."""
    if result.error is not None:
        raise result.error
    return result

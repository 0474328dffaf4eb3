"""EdgeSession: photos out, results in, over one stream."""

from __future__ import annotations

import logging
import re
import socket
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from numpy.typing import NDArray

from edge_client.session.bundles import obtain_bundle
from edge_client.session.channel import (
    TlsClientFiles,
    error_from_call,
    open_channel,
    wait_until_ready,
)
from edge_client.session.connection import Connection, Reply
from edge_client.session.result import FrameResult
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.codec import Codec, RateTarget, open_codec
from shared.errors import BudgetError, BundleError, FeatherwireError, PhotoError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2, ingest_pb2_grpc
from shared.wire import PictureEncoding, PictureRequest, error_from_message
from shared.wire.deadlines import frame_deadline
from shared.wire.requests import Hello, features_message, parse_tasks, picture_request_message
from shared.wire.results import outcome_from_message

if TYPE_CHECKING:
    from edge_client.encoder import EdgeEncoder

Photo = str | Path | bytes | NDArray[np.uint8] | Bitstream
"""A picture file or its bytes, uint8 HxWx3 RGB, or what was encoded: a Bitstream or .fwf file."""

PictureWish = bool | str | PictureEncoding | PictureRequest | None
"""True is PNG; or ``"png"``, ``"webp"``, ``"webp_lossless"``, or a request with a quality."""

KEPT_FOR_REFINEMENT = 64
RESULT_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True)
class _Kept:
    """A frame at its finest state, and the state that the server has."""

    bitstream: Bitstream
    sent_state: int


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A frame of ``stream`` that is not back; ``sent_at`` is of ``time.monotonic``."""

    photo: Photo
    bitstream: Bitstream
    sequence: int
    sent_at: float
    deadline_s: float


class EdgeSession:
    """A session with one server. Open it with ``with``; use it from one thread at a time.

    server: HOST:PORT.
    device: a stable name of this machine; its host name when None.
    session: which numbering of frames; a fresh one when None.
    bundle: a Bundle, or a folder, zip or name. None takes the packaged one, or the server's own,
        fetched once and cached, when the server wants another.
    encoder: an ``EdgeEncoder`` to share between sessions; its bundle is used then.
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
        bundle: Bundle | str | Path | None = None,
        encoder: EdgeEncoder | None = None,
        tasks: Iterable[str] | None = None,
        threads: int = 1,
        tls: TlsClientFiles | None = None,
        connect_timeout_s: float = 10.0,
        deadline_s: float | None = None,
        bundle_cache_dir: Path | None = None,
    ) -> None:
        self.server = server
        self.device = device or default_device_name()
        self.session = session or uuid.uuid4().hex
        self._given_bundle = encoder.bundle if encoder is not None else bundle
        self._encoder = encoder
        self._default_tasks = None if tasks is None else parse_tasks(tasks)
        self._threads = threads
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._deadline_s = deadline_s
        self._bundle_cache_dir = bundle_cache_dir
        self._channel: grpc.Channel | None = None
        self._connection: Connection | None = None
        self._bundle: Bundle | None = None
        self._codec: Codec | None = None
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> EdgeSession:
        """Connect, agree on a bundle, and be ready to send; ``with`` calls this.

        Raises ``SessionError`` (unreachable, refused, bundle_mismatch, unsupported_version, ...)
        and ``BundleError`` when the bundle cannot be had.
        """
        if self._connection is not None:
            return self
        mine = self._own_bundle()
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
                client_version=_package_version(),
            )
            self._connection = Connection(
                self._channel, self.server, hello, timeout_s=self._connect_timeout_s
            )
            wanted_id = self._connection.welcome.bundle_id
            if mine is None or mine.id != wanted_id:
                mine = obtain_bundle(
                    self._channel, self.server, wanted_id, cache_dir=self._bundle_cache_dir
                )
            self._bundle = mine
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
        self._open_connection()
        assert self._bundle is not None
        return self._bundle

    @property
    def credits(self) -> int:
        """Frames that may be sent at once without waiting."""
        return self._open_connection().credits

    @property
    def available_tasks(self) -> tuple[str, ...]:
        """Tasks that this server can run."""
        tasks = self._open_connection().welcome.settings.tasks
        return parse_tasks(task.name for task in tasks if not task.HasField("unavailable"))

    @property
    def unavailable_tasks(self) -> dict[str, FeatherwireError]:
        """Tasks that this server cannot run, and why."""
        tasks = self._open_connection().welcome.settings.tasks
        return {
            task.name: error_from_message(task.unavailable)
            for task in tasks
            if task.HasField("unavailable")
        }

    @property
    def encoder(self) -> EdgeEncoder:
        """The encoder for the agreed bundle, made when it is first needed."""
        if self._encoder is None:
            from edge_client.encoder import EdgeEncoder

            self._encoder = EdgeEncoder(self.bundle, threads=self._threads)
        return self._encoder

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
    ) -> FrameResult:
        """Send one photo and wait for its result.

        At most one of ``state``, ``bits_per_pixel``, ``max_bytes`` and ``psnr_db``, which mean what
        they mean to ``EdgeEncoder.encode``; none is the finest state. ``refinable`` keeps the finer
        layers here, so that ``refine`` can send them later.
        Raises ``FeatherwireError`` when the photo, the frame or the session fails; a task that
        fails alone is in ``result.task_errors``.
        """
        rate = RateTarget(state, bits_per_pixel, max_bytes, psnr_db, best_effort)
        bitstream, finest = self._encode(photo, rate, refinable)
        deadline_s = self._deadline(bitstream)
        sequence, future = self._open_connection().submit(
            bitstream, tasks=self._tasks(tasks), picture=_picture(picture), deadline_s=deadline_s
        )
        self._keep(sequence, finest, bitstream.state)
        return _whole(self._await(future, photo, bitstream, deadline_s))

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
    ) -> Iterator[FrameResult]:
        """Send many photos, with as many in flight as the server gives credits for.

        Yields each result as it completes, which need not be the order of ``photos``; its
        ``source`` is the photo. A photo that cannot be encoded, or fails at the server, yields a
        result with ``error`` set, and the rest go on; so does one that is not back within its
        deadline. Raises ``SessionError`` when the session itself fails, after it has yielded all
        that came back.
        """
        wanted, request = self._tasks(tasks), _picture(picture)
        rate = RateTarget(state, bits_per_pixel, max_bytes, psnr_db, best_effort)
        in_flight: dict[Future[Reply], _InFlight] = {}
        for photo in photos:
            try:
                bitstream, finest = self._encode(photo, rate, refinable)
            except SessionError:
                raise
            except FeatherwireError as error:
                yield _unsent(photo, error)
                continue
            connection = self._open_connection()
            deadline_s = self._deadline(bitstream)
            while connection.credits == 0 and in_flight:
                yield from self._completed(in_flight)
            try:
                sequence, future = connection.submit(
                    bitstream, tasks=wanted, picture=request, deadline_s=deadline_s
                )
            except SessionError as error:
                if error.reason not in {"message_too_large", "deadline_exceeded"}:
                    while in_flight:
                        yield from self._completed(in_flight)
                    raise
                yield _unsent(photo, error)
                continue
            self._keep(sequence, finest, bitstream.state)
            in_flight[future] = _InFlight(photo, bitstream, sequence, time.monotonic(), deadline_s)
            if any(future.done() for future in in_flight):
                yield from self._completed(in_flight)
        while in_flight:
            yield from self._completed(in_flight)

    def refine(
        self,
        sequence: int,
        *,
        state: int = 0,
        tasks: Iterable[str] | None = None,
        picture: PictureWish = None,
    ) -> FrameResult:
        """Send the layers that a frame (sent with ``refinable=True``) still lacks up to ``state``.

        Raises ``SessionError("not_refinable")`` when they are no longer here, and
        ``refine_evicted`` when the server no longer has the layers before them.
        """
        kept = self._kept.get(sequence)
        if kept is None:
            raise SessionError("not_refinable", f"the layers of frame {sequence} are not kept here")
        refined = kept.bitstream.truncate(state)
        layers = tuple(layer for layer in refined.layers if layer.state < kept.sent_state)
        if not layers:
            raise SessionError(
                "not_refinable", f"frame {sequence} was sent at state {kept.sent_state} already"
            )
        deadline_s = self._deadline(kept.bitstream)
        future = self._open_connection().refine(
            sequence,
            layers,
            tasks=self._tasks(tasks),
            picture=_picture(picture),
            deadline_s=deadline_s,
        )
        result = _whole(self._await(future, sequence, refined, deadline_s))
        self._kept[sequence] = _Kept(kept.bitstream, state)
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
    ) -> FrameResult:
        """Like ``send``, as one unary call outside the stream: no credits, no sequence."""
        rate = RateTarget(state, bits_per_pixel, max_bytes, psnr_db, best_effort)
        bitstream, _ = self._encode(photo, rate, False)
        self._open_connection()
        assert self._channel is not None
        request = ingest_pb2.AnalyzeRequest(
            features=features_message(bitstream),
            tasks=self._tasks(tasks),
            picture=picture_request_message(_picture(picture)),
        )
        started = time.perf_counter()
        try:
            response = ingest_pb2_grpc.IngestServiceStub(self._channel).Analyze(
                request, timeout=self._deadline(bitstream)
            )
        except grpc.RpcError as error:
            raise error_from_call(error, self.server) from None
        round_trip_ms = (time.perf_counter() - started) * 1e3
        outcome = outcome_from_message(response.outcome)
        reply = Reply(outcome, 0, bitstream.state, round_trip_ms)
        return _whole(_result(reply, photo, bitstream))

    # -- parts -----------------------------------------------------------------------------------

    def _own_bundle(self) -> Bundle | None:
        if isinstance(self._given_bundle, Bundle):
            return self._given_bundle
        if self._given_bundle is not None:
            return Bundle.load(self._given_bundle)
        try:
            return Bundle.load()
        except BundleError:
            return None  # the server will name one

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise SessionError("closed", "this session is not open; use it in a with statement")
        return self._connection

    def _deadline(self, bitstream: Bitstream) -> float:
        if self._deadline_s is not None:
            return self._deadline_s
        base_s = self._open_connection().welcome.settings.frame_deadline_s
        return frame_deadline(base_s, bitstream.width, bitstream.height) + RESULT_MARGIN_S

    def _tasks(self, tasks: Iterable[str] | None) -> tuple[str, ...]:
        if tasks is not None:
            return parse_tasks(tasks)
        return self.available_tasks if self._default_tasks is None else self._default_tasks

    def _encode(
        self, photo: Photo, rate: RateTarget, refinable: bool
    ) -> tuple[Bitstream, Bitstream | None]:
        """The frame to send, and the finest one when it shall be kept."""
        if isinstance(photo, str | Path) and Path(photo).suffix.lower() == ".fwf":
            photo = _read_fwf(Path(photo))
        if not isinstance(photo, Bitstream):
            if not refinable or rate.psnr_db is not None:
                frame = self.encoder.encode_at(photo, rate)
                return frame, self.encoder.encode(photo) if refinable else None
            photo = self.encoder.encode(photo)
        return self._cut(photo, rate), photo if refinable else None

    def _cut(self, bitstream: Bitstream, rate: RateTarget) -> Bitstream:
        """What ``EdgeEncoder.encode`` would have made of the photo, from ready layers."""
        if rate.psnr_db is not None:
            raise BudgetError("no_photo", "a PSNR target needs the photo, not its features")
        if rate.state is not None:
            return bitstream.truncate(rate.state)
        budget = rate.budget_bytes(bitstream.width, bitstream.height)
        if budget is None or bitstream.file_bytes <= budget:
            return bitstream
        if self._codec is None:
            self._codec = open_codec(self.bundle)
        return self._codec.shorten(bitstream, budget)

    def _keep(self, sequence: int, finest: Bitstream | None, sent_state: int) -> None:
        if finest is None:
            return
        self._kept[sequence] = _Kept(finest, sent_state)
        while len(self._kept) > KEPT_FOR_REFINEMENT:
            self._kept.popitem(last=False)

    def _await(
        self, future: Future[Reply], source: Any, bitstream: Bitstream, deadline_s: float
    ) -> FrameResult:
        try:
            return _result(future.result(deadline_s), source, bitstream)
        except FutureTimeoutError:
            raise self._too_late(deadline_s) from None

    def _completed(self, in_flight: dict[Future[Reply], _InFlight]) -> Iterator[FrameResult]:
        """Wait for one of ``in_flight`` at least, or for its deadline; yield what has ended.

        What has ended is forgotten. When the session has failed this raises why, after all that
        did come back.
        """
        first_s = min(one.sent_at + one.deadline_s for one in in_flight.values())
        wait_for(
            in_flight,
            timeout=max(0.0, first_s - time.monotonic()),
            return_when=FIRST_COMPLETED,
        )
        failure: BaseException | None = None
        for future, one in list(in_flight.items()):
            if future.done():
                del in_flight[future]
                if (error := future.exception()) is not None:
                    failure = failure or error
                else:
                    yield _result(future.result(), one.photo, one.bitstream)
            elif time.monotonic() >= one.sent_at + one.deadline_s:
                del in_flight[future]
                future.cancel()
                late = self._too_late(one.deadline_s)
                yield _unsent(one.photo, late, sequence=one.sequence)
        if failure is not None:
            raise failure

    def _too_late(self, deadline_s: float) -> SessionError:
        return SessionError(
            "deadline_exceeded", f"{self.server} gave no result within {deadline_s:g} s"
        )


def default_device_name() -> str:
    """This machine's host name, in the alphabet of device names."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:128] or "device"


def _read_fwf(path: Path) -> Bitstream:
    """A .fwf file; one whose end is missing gives what is complete, with a warning."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PhotoError("unreadable", f"{path}: {error.strerror or error}") from None
    bitstream = Bitstream.from_bytes(data, allow_cut=True)
    if bitstream.file_bytes != len(data):
        logging.getLogger(__name__).warning(
            "warning: %s is cut; its state %d is complete and is used", path, bitstream.state
        )
    return bitstream


def _package_version() -> str:
    try:
        return version("featherwire")
    except PackageNotFoundError:
        return "0"


def _picture(wish: PictureWish) -> PictureRequest | None:
    if wish is None or wish is False:
        return None
    if isinstance(wish, PictureRequest):
        return wish
    try:
        return PictureRequest(PictureEncoding.PNG if wish is True else PictureEncoding(wish))
    except ValueError:
        known = ", ".join(PictureEncoding)
        raise SessionError("unknown_encoding", f"no encoding {wish!r}; there are {known}") from None


def _result(reply: Reply, source: Any, bitstream: Bitstream) -> FrameResult:
    outcome = reply.outcome
    return FrameResult(
        source=source,
        sequence=reply.sequence,
        state=reply.state,
        payload_bytes=bitstream.file_bytes,
        round_trip_ms=reply.round_trip_ms,
        passes=bitstream.passes,
        analysis=outcome.analysis,
        error=outcome.error,
        task_errors=outcome.task_errors,
        picture=outcome.picture,
        picture_error=outcome.picture_error,
    )


def _unsent(source: Any, error: FeatherwireError, *, sequence: int = 0) -> FrameResult:
    return FrameResult(
        source=source,
        sequence=sequence,
        state=None,
        payload_bytes=0,
        round_trip_ms=0.0,
        error=error,
    )


def _whole(result: FrameResult) -> FrameResult:
    """``result``, unless the frame as a whole failed: then its error is raised."""
    if result.error is not None:
        raise result.error
    return result

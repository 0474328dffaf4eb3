"""EdgeSession: photos out, results in, over one stream, or over as many as a spool needs."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edge_client.bundles import BundleSource
from edge_client.rate import RateControl
from edge_client.session.connection import Connection
from edge_client.session.direct import DirectExchange, RateListener, analyze
from edge_client.session.encoding import Photo
from edge_client.session.events import SessionEvents
from edge_client.session.frames import (
    CapturedPhoto,
    Framer,
    PictureWish,
    SendWith,
    Wishes,
    picture_request,
)
from edge_client.session.groups import Groups, KeyEvery
from edge_client.session.opening import (
    DeviceSettings,
    Opener,
    default_device_name,
    keep_nothing,
)
from edge_client.session.refinement_store import STORED_BYTES, STORED_FRAMES, RefinementStore
from edge_client.session.results import FrameResult
from edge_client.session.spooled.exchange import SpooledExchange
from edge_client.spool import Spool
from shared.bundle import Bundle
from shared.errors import FeatherwireError, SessionError
from shared.rpc.access import Access
from shared.rpc.channel import open_channel
from shared.targets import RateTarget, Region, check_regions
from shared.wire.requests import parse_tasks

if TYPE_CHECKING:
    from edge_client.encoder import EdgeEncoder


class EdgeSession:
    """A session with one server. Open it with ``with``; use it from one thread at a time.

    server: HOST:PORT.
    device: a stable name of this machine. None is the name that the spool was first opened with,
        and without a spool the host's.
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
    spool: keeps frames until the server has them, over lost connections, restarts and power cuts,
        and gives the session its name. Without one the session ends with its connection. One of
        another device's frames is refused: ``SpoolError("other_device")``.
    control: the rate of this device. None sends as fast as the server takes.
    regions: parts of every photo that are coded more finely than the rest, where its bundle can;
        not with ``psnr_db``.
    events: is told of the connection, and of what an operator sets.
    key_every: how long a group of pictures is at most; None is 250 frames.
    predict: frames refer to those before them, where bundle and server know such frames. False
        codes every frame by itself.
    hurry: once it is set, ``open`` waits for no server that the spool can do without.
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
        access: Access | None = None,
        connect_timeout_s: float = 10.0,
        deadline_s: float | None = None,
        bundle_cache_dir: Path | None = None,
        kept_frames: int = STORED_FRAMES,
        kept_bytes: int = STORED_BYTES,
        spool: Spool | None = None,
        control: RateControl | None = None,
        regions: Iterable[Region] = (),
        events: SessionEvents | None = None,
        hurry: threading.Event | None = None,
        key_every: KeyEvery | None = None,
        predict: bool = True,
    ) -> None:
        self.server = server
        self._events = events or SessionEvents()
        self._hurry = hurry
        host = default_device_name()
        self.device = (device or host) if spool is None else spool.claim(device, host)
        self._session = session or uuid.uuid4().hex
        self._access = access
        self._connect_timeout_s = connect_timeout_s
        self._spool = spool
        self._control = control or RateControl()
        self._store = RefinementStore(kept_frames, kept_bytes)
        self.groups = Groups(key_every, predict=predict)
        """The groups of pictures: how many frames stand alone, and ``begin`` for another key."""
        self._opener = Opener(
            server,
            self.device,
            bundle=bundle,
            encoder=encoder,
            also=also,
            tasks=None if tasks is None else parse_tasks(tasks),
            threads=threads,
            access=access,
            timeout_s=connect_timeout_s,
            deadline_s=deadline_s,
            bundle_cache_dir=bundle_cache_dir,
            regions=check_regions(tuple(regions)),
            keep=keep_nothing if spool is None else spool.keep,
            chosen_bundle_id=None if spool is None else spool.setting("chosen_bundle"),
            bundle_trials=None if spool is None else spool.setting("bundle_trials"),
            groups=self.groups,
        )
        self._regions = check_regions(tuple(regions))
        self._settings = DeviceSettings(spool, self._control, self._opener, self._events.setting)
        self._exchange: DirectExchange | SpooledExchange | None = None

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> EdgeSession:
        """Connect, agree on a bundle, and be ready to send; ``with`` calls this.

        With a spool a server that is not there is no error: it is looked for until ``close``. One
        that does not let this device in is none either: frames stay, and ``refusal`` says why.
        Raises ``SessionError`` (unreachable, refused, bundle_mismatch, unsupported_version, ...)
        and ``BundleError`` when the bundle cannot be had, or knows no regions though some were
        given.
        """
        if self._exchange is not None:
            return self
        exchange: DirectExchange | SpooledExchange
        if self._spool is None:
            connection = self._opener.open(
                self._session,
                self._store,
                listener=RateListener(self._control),
                take_setting=self._settings.take,
            )
            self._settings.follow(connection)
            exchange = DirectExchange(connection, self._control)
        else:
            open_channel(self.server, self._access).close()  # what is wrong for ever: at once
            self._settings.restore()
            exchange = SpooledExchange(
                self._spool,
                self._opener,
                self._settings,
                self._store,
                self._control,
                self._connect_timeout_s,
                self._events,
                self._hurry,
            )
        self._exchange = exchange
        try:
            exchange.open()
            if self._regions:
                self._opener.check_regions()
        except FeatherwireError:
            self.close()
            raise
        return self

    def close(self, timeout_s: float = 10.0) -> None:
        """End the session; frames in flight have so long to come back."""
        self._opener.bundle_update.close()
        if self._exchange is not None:
            self._exchange.close(timeout_s)
            self._exchange = None

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
    def session(self) -> str:
        """Which numbering of frames; a spool's own."""
        return self._spool.session if self._spool is not None else self._session

    @property
    def online(self) -> bool:
        """Whether there is a stream now."""
        return self._exchange is not None and self._exchange.connection is not None

    @property
    def why_offline(self) -> FeatherwireError | None:
        """Why there is no stream, with a spool; None while there is one, or nothing is known."""
        exchange = self._exchange
        return exchange.why_offline if isinstance(exchange, SpooledExchange) else None

    @property
    def refusal(self) -> FeatherwireError | None:
        """Why the server lets this device in no more, with a spool: its frames stay there."""
        return self._exchange.refusal if self._exchange is not None else None

    @property
    def control(self) -> RateControl:
        """The rate of this device."""
        return self._control

    @property
    def bundle(self) -> Bundle:
        """The bundle on which both ends agreed."""
        return self._framing().photo_encoder.bundle

    @property
    def also(self) -> tuple[Bundle, ...]:
        """The bundles with which photos are encoded beside it."""
        return tuple(self._framing().photo_encoder.also.values())

    @property
    def credits(self) -> int:
        """Frames that may be sent at once without waiting; 0 while there is no stream."""
        connection = self._opened().connection
        return connection.credits if connection is not None else 0

    @property
    def available_tasks(self) -> tuple[str, ...]:
        """Tasks that this server can run, on features of one or another bundle."""
        return self._framing().server_tasks.available

    @property
    def unavailable_tasks(self) -> dict[str, FeatherwireError]:
        """Tasks that this server cannot run, and why."""
        return dict(self._framing().server_tasks.unavailable)

    @property
    def encoder(self) -> EdgeEncoder:
        """The encoder for the agreed bundle, made when it is first needed."""
        return self._framing().photo_encoder.encoder(self.bundle)

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
        they mean to ``EdgeEncoder.encode``; none is the bundle's default state, or what the rate
        control makes of the budget that it was given. ``refinable`` keeps the finer layers here, so
        that ``refine`` can send them later. ``send_with`` sends what these of the ``also`` bundles
        say of the photo in the same frame. A task, or a picture, that only a bundle which is kept
        back would be enough for is asked for when that is sent.

        With ``wait_refined``, when the server asks for more of this frame after its result, what
        comes of that is returned (``refined``, with the first result as ``before``); when it fails
        the first result is, with ``refine_error``.
        Raises ``FeatherwireError`` when the photo, the frame or the session fails; a task that
        fails alone is in ``result.task_errors``.
        """
        rate = self._rate(state, bits_per_pixel, max_bytes, psnr_db, best_effort)
        wishes = Wishes(rate, tasks, picture, refinable, send_with)
        return self._opened().send(photo, wishes, wait_refined=wait_refined)

    def stream(
        self,
        photos: Iterable[Photo | CapturedPhoto | None],
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
        window: int | None = None,
        hurry: threading.Event | None = None,
    ) -> Generator[FrameResult, None, None]:
        """Send many photos, with as many in flight as the server gives credits for.

        Yields each result as it completes, which need not be the order of ``photos``; its
        ``source`` is the photo, or the origin of a ``CapturedPhoto``. ``photos`` may give None
        while there is no photo to send, so that what is here is yielded. ``window``: frames without
        a result at most while there is a stream. Once ``hurry`` is set no result is waited for.
        Where the server asks for more of a frame after its result, what comes of that is a further
        result, with ``refined`` set. A photo that cannot be encoded, or fails at the server, yields
        a result with ``error`` set, and the rest go on; so does one that is not back within its
        deadline. Raises ``SessionError`` when the session itself fails, after it has yielded all
        that came back.
        """
        sender = self._opened()
        rate = self._rate(state, bits_per_pixel, max_bytes, psnr_db, best_effort)
        names = None if tasks is None else parse_tasks(tasks)
        with_ = self._framing().at_once(send_with)
        wishes = Wishes(rate, names, picture_request(picture), refinable, with_)
        return sender.stream(photos, wishes, window=window, hurry=hurry)

    def flush(self) -> Iterator[FrameResult]:
        """Results of what the spool still holds, as they come.

        What no server takes within the connection's timeout yields a result whose error has the
        reason ``spooled``. Raises ``SessionError("no_spool")``.
        """
        sender = self._opened()
        if not isinstance(sender, SpooledExchange):
            raise SessionError("no_spool", "this session has no spool that could be flushed")
        return sender.flush()

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
        refinement = self._store.refinement(sequence, short_id, state)
        ids = (*self._store.sent_bundles(sequence), refinement.bundle_id)
        refinement = replace(
            refinement,
            tasks=framing.wanted_tasks(tasks, framing.photo_encoder.bundles(dict.fromkeys(ids))),
            picture=picture_request(picture),
        )
        deadline_s = framing.deadline_of(*self._store.size(sequence))
        sender = DirectExchange(self._open_connection(), self._control)
        result = sender.refine(refinement, deadline_s)
        self._store.sent(refinement)
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
        rate = self._rate(state, bits_per_pixel, max_bytes, psnr_db, best_effort)
        connection = self._open_connection()
        return analyze(connection, photo, Wishes(rate, tasks, picture, False, send_with))

    # -- parts -----------------------------------------------------------------------------------

    def _opened(self) -> DirectExchange | SpooledExchange:
        if self._exchange is None:
            raise SessionError("closed", "this session is not open; use it in a with statement")
        return self._exchange

    def _rate(
        self, state: int | None, bpp: float | None, size: int | None, psnr_db: float | None,
        best_effort: bool,
    ) -> RateTarget:  # fmt: skip
        """A rate that goes with the regions that were given; those of commands give way to it."""
        rate = RateTarget(state, bpp, size, psnr_db, best_effort)
        check_regions(self._regions, rate)
        return rate

    def _open_connection(self) -> Connection:
        connection = self._opened().connection
        if connection is None:
            raise SessionError("unreachable", f"there is no stream to {self.server} now")
        return connection

    def _framing(self) -> Framer:
        return self._opened().framer

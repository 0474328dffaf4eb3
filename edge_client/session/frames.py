"""Photos as frames that are ready to go: what is asked of them, at the rate that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from opentelemetry.trace import SpanKind, use_span

from edge_client.rate import RateControl
from edge_client.session.bundle_update import BundleUpdate
from edge_client.session.encoding import Photo, PhotoEncoder
from edge_client.session.groups import Coding, Groups, can_predict
from edge_client.session.refinement_store import Part
from shared.bitstream import FORMAT_VERSION, Bitstream
from shared.bundle import Bundle
from shared.errors import (
    BitstreamError,
    BundleError,
    FeatherwireError,
    PhotoError,
    SessionError,
)
from shared.preprocess import load_photo
from shared.proto.featherwire.v1 import ingest_pb2
from shared.targets import FINEST, RateTarget, Regions
from shared.wire import PictureEncoding, PictureRequest, error_from_message
from shared.wire.features import features_message, header_of, parse_features
from shared.wire.requests import parse_tasks, picture_request_message
from shared.wire.tracing import frame_span, traceparent_of, tracer
from shared.wire.transport import frame_deadline

RESULT_MARGIN_S = 5.0

SendWith = Iterable[str] | Mapping[str, int | None]
"""Names or ids of ``also`` bundles; or each with its state, None for the bundle's default."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A frame ready to go: what is asked of it at once, and when more of it is sent.

    ``deadline_s`` begins anew whenever a busy server says that frames are still with it, unless it
    is a ``hard_deadline``: somebody's own, and not the server's.
    ``make_others`` makes the parts of which nothing is sent, None when there are none.
    ``traceparent``: of the span in which it was made, empty when nothing is traced.
    ``captured_at``: seconds since 1970; None is when it is sent. ``coding``: what it refers to, and
    whom to tell that it is on its way; None for one that is outside of all groups.
    """

    parts: tuple[Part, ...]
    tasks: tuple[str, ...]
    picture: PictureRequest | None
    later: tuple[tuple[str, ...], PictureRequest | None]
    deadline_s: float
    make_others: Callable[[], tuple[Part, ...]] | None
    traceparent: str = ""
    captured_at: float | None = None
    hard_deadline: bool = False
    coding: Coding | None = None

    def numbered(self, sequence: int) -> Outgoing:
        """The frame as it may be sent under this number, where its reference is no good any
        more, standing alone."""
        if self.coding is None or self.coding.still_right(sequence):
            return self
        return replace(self, parts=self.coding.standing_alone(self.parts, sequence))

    @property
    def grows(self) -> bool:
        """Whether the next frame may refer to this one."""
        return self.coding is not None and self.coding.grows

    def on_its_way(self) -> None:
        """The next frame may refer to this one."""
        if self.coding is not None:
            self.coding.sent(self.parts)

    @property
    def sent(self) -> tuple[Bitstream, ...]:
        """What goes out at once, the first bundle's first."""
        return tuple(part.sent for part in self.parts if part.sent is not None)

    @property
    def file_bytes(self) -> int:
        """Bytes of what goes out at once."""
        return sum(bitstream.file_bytes for bitstream in self.sent)


class Framer:
    """Makes frames for one server: what it can do decides what is asked of it."""

    def __init__(
        self,
        photo_encoder: PhotoEncoder,
        settings: ingest_pb2.ServerSettings,
        *,
        also: Mapping[str, Bundle],
        tasks: Callable[[], tuple[str, ...] | None],
        deadline_s: float | None,
        regions: Callable[[], Regions] = tuple,
        bundle_update: BundleUpdate | None = None,
        version: int = FORMAT_VERSION,
        groups: Groups | None = None,
        takes_predicted: bool = False,
    ) -> None:
        """settings: of the server's Welcome. also: the further bundles, as they were named to the
        session. tasks: what runs now when a call names none; None is all that a frame
        is enough for. deadline_s: of every frame; None goes by the server's. regions: of the next
        photo. bundle_update: chooses the photo encoder between frames. version: the newest of the
        format that the server reads. groups: of the session, where frames may be predicted;
        takes_predicted: whether this server decodes such.
        """
        self.photo_encoder = photo_encoder
        self.server_tasks = ServerTasks(settings)
        self._named = also
        self._tasks = tasks
        self._regions = regions
        self.bundle_update = bundle_update
        self.version = version
        self.groups = groups or Groups(predict=False)
        self.takes_predicted = takes_predicted and can_predict(version)
        self._deadline_s = deadline_s
        self._server_deadline_s = settings.frame_deadline_s

    @property
    def regions(self) -> Regions:
        """Regions of the next photo that are coded more finely than the rest."""
        return self._regions()

    def coding(self, sequence: int) -> Coding:
        """What the frame that will have this sequence may refer to."""
        return self.groups.next_frame(sequence, predicts=self.takes_predicted)

    def frame(
        self,
        photo: Photo,
        wishes: Wishes,
        *,
        keep: bool = True,
        coding: Coding | None = None,
        fit: Callable[[Bitstream], int] | None = None,
    ) -> Outgoing:
        """Encode a photo, and say what is asked of it; without ``keep`` nothing is kept back.

        coding: of a frame of the session, what it may refer to; None is for one outside of it.
        fit: see ``EdgeEncoder.encode_frame``.

        Raises what ``PhotoEncoder.encode`` does, and ``SessionError``: unknown_bundle,
        unknown_encoding, invalid_message.
        """
        span = frame_span("frame", SpanKind.PRODUCER)
        with use_span(span, end_on_exit=True), tracer().start_as_current_span("describe"):
            encoded = self.photo_encoder.encode(
                photo,
                wishes.rate,
                refinable=wishes.refinable,
                send_with=self._short_ids(wishes.send_with),
                keep=keep,
                regions=self.regions,
                version=self.version,
                coding=coding,
                fit=fit,
            )
        parts, kept = encoded.parts, encoded.others
        sent = self.photo_encoder.bundles(part.bundle_id for part in parts)
        wanted = self.wanted_tasks(wishes.tasks, (*sent, *kept))
        request = picture_request(wishes.picture)
        first = parts[0].sent
        assert first is not None, "the first part is always sent"
        return Outgoing(
            parts,
            self.server_tasks.at_once(wanted, sent, kept),
            picture_at_once(request, sent, kept),
            (wanted, request),
            self.deadline_of(first.width, first.height),
            encoded.make_others if kept else None,
            traceparent_of(span),
            hard_deadline=self.hard_deadline,
            coding=coding,
        )

    def for_spool(
        self, frame: Outgoing, tasks: Iterable[str] | None
    ) -> tuple[ingest_pb2.Frame, bool]:
        """The frame's message without a sequence, asking for all that is wanted; and whether that
        is what the server has, which ``ask`` fills in when there is one."""
        named = self._tasks() if tasks is None else parse_tasks(tasks)
        message = ingest_pb2.Frame(
            features=[features_message(bitstream) for bitstream in frame.sent],
            tasks=named or (),
            picture=picture_request_message(frame.later[1]),
            traceparent=frame.traceparent,
        )
        stamp(message, frame.captured_at)
        return message, named is None

    def ask(self, message: ingest_pb2.Frame, *, default_tasks: bool, kept: bool) -> None:
        """Settle what is asked of a spooled frame at once, as ``frame`` does for one that goes
        directly; ``kept``: whether the further bundles' parts are at hand."""
        ids = [features.bundle_short_id for features in message.features]
        sent = self.photo_encoder.bundles(ids)
        others = [
            bundle for short_id, bundle in self.photo_encoder.also.items() if short_id not in ids
        ]
        waiting = others if kept else []
        wanted = (
            self.server_tasks.all_on((*sent, *waiting)) if default_tasks else tuple(message.tasks)
        )
        del message.tasks[:]
        message.tasks.extend(self.server_tasks.at_once(wanted, sent, waiting))
        if not any(map(makes_pictures, sent)) and any(map(makes_pictures, waiting)):
            message.ClearField("picture")

    def in_version(self, message: ingest_pb2.Frame) -> None:
        """Code the features of a spooled frame again, without loss, where the server needs that.

        What is damaged stays as it is, for the server to refuse. Raises ``SessionError``; see
        ``PhotoEncoder.in_version``.
        """
        for features in message.features:
            try:
                if header_of(features).version > self.version:
                    found = self.photo_encoder.in_version(parse_features(features), self.version)
                    features.CopyFrom(features_message(found))
            except BitstreamError:
                continue

    def wanted_tasks(
        self, tasks: Iterable[str] | None, bundles: Sequence[Bundle]
    ) -> tuple[str, ...]:
        """``tasks``, or the session's, or all that ``bundles`` are enough for."""
        named = self._tasks() if tasks is None else parse_tasks(tasks)
        return self.server_tasks.all_on(bundles) if named is None else named

    @property
    def hard_deadline(self) -> bool:
        """Whether frames have a deadline of the device's own, which no server can put off."""
        return self._deadline_s is not None

    def deadline_of(self, width: int, height: int) -> float:
        """Seconds that a frame of this size may take."""
        if self._deadline_s is not None:
            return self._deadline_s
        return frame_deadline(self._server_deadline_s, width, height) + RESULT_MARGIN_S

    def also(self, name: str) -> Bundle:
        """One of the further bundles, or the first, by name, id, or as it was given.

        Raises ``SessionError("unknown_bundle")``.
        """
        given = self._named.get(name)
        bundles = (*self.photo_encoder.also.values(), self.photo_encoder.bundle)
        for bundle in bundles:
            if bundle is given or name in (bundle.manifest.name, bundle.id):
                return bundle
        known = ", ".join(bundle.manifest.name for bundle in bundles[:-1]) or "none"
        raise SessionError(
            "unknown_bundle", f"no bundle {name!r} beside the first; there is {known}"
        )

    def at_once(self, names: SendWith) -> dict[str, int | None]:
        """States by bundle id, so that it can be given again; raises as ``also`` does."""
        states = names if isinstance(names, Mapping) else dict.fromkeys(names)
        return {self.also(name).id: state for name, state in states.items()}

    def _short_ids(self, names: SendWith) -> dict[bytes, int | None]:
        return {bytes.fromhex(key[:16]): state for key, state in self.at_once(names).items()}


TYPICAL_PIXELS = 640 * 480
"""Of a picture, where the bundle brings all to one size: what they take does not go by theirs."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a caller wants of each photo; as for ``EdgeSession.send``."""

    rate: RateTarget = FINEST
    tasks: Iterable[str] | None = None
    picture: PictureWish = None
    refinable: bool = False
    send_with: SendWith = ()


def make_frame(
    framer: Framer,
    control: RateControl,
    photo: Photo,
    wishes: Wishes,
    sequence: int,
    captured_at: float | None = None,
) -> Outgoing:
    """Encode a photo; raises as ``Framer.frame`` and ``RateControl.plan`` do.

    sequence: that it will have. captured_at: seconds since 1970; None is now.

    Between frames is when another bundle takes the first one's place. One that cannot encode what
    the one before can gives way to that again.
    """
    update = framer.bundle_update
    if update is None:
        return _make(framer, control, photo, wishes, sequence, captured_at)
    framer.photo_encoder = update.settle(framer.photo_encoder)
    if update.wants_photo() and not _is_encoded(photo):

        def encode(photo_encoder: PhotoEncoder, photo: Photo) -> Bitstream:
            if not isinstance(photo, np.ndarray):
                photo = np.asarray(load_photo(photo))  # type: ignore[arg-type]
            rate = control.target(
                wishes.rate, photo_encoder.bundle.manifest.states, _pixels(photo_encoder, photo)
            )
            (part,) = photo_encoder.encode(
                photo, rate, keep=False, regions=framer.regions, version=framer.version
            ).parts
            assert part.sent is not None
            return part.sent

        def tasks_of(bundle: Bundle) -> tuple[str, ...]:
            wanted = framer.wanted_tasks(wishes.tasks, (bundle,))
            return tuple(task for task in wanted if framer.server_tasks.possible(task, (bundle,)))

        update.try_on(photo, encode, tasks_of)
    used = framer.photo_encoder
    try:
        return _make(framer, control, photo, wishes, sequence, captured_at)
    except Exception as error:
        before = update.previous(used)
        if before is None:
            raise
        framer.photo_encoder = before
        try:
            frame = _make(framer, control, photo, wishes, sequence, captured_at)
        except FeatherwireError:  # it is the photo
            framer.photo_encoder = used
            raise error from None
        update.failed(error)
        return frame


def blames_photo(error: FeatherwireError, *, encoded: bool) -> bool:
    """Whether an error while a frame is made is one photo's: of others the next one may do.

    encoded: whether a photo of this session was encoded before. A bundle that cannot encode the
    first one is not at fault with that alone.
    """
    if isinstance(error, SessionError):
        return False
    return encoded or not isinstance(error, BundleError)


def _make(
    framer: Framer,
    control: RateControl,
    photo: Photo,
    wishes: Wishes,
    sequence: int,
    captured_at: float | None,
) -> Outgoing:
    coding = framer.coding(sequence)
    if _is_encoded(photo) or not control.steers(wishes.rate):
        return framer.frame(photo, wishes, coding=coding)
    if not isinstance(photo, np.ndarray):
        photo = np.asarray(load_photo(photo))  # type: ignore[arg-type]
    states = framer.photo_encoder.bundle.manifest.states
    pixels = _pixels(framer.photo_encoder, photo)
    wanted = framer.photo_encoder.within(wishes.rate)
    bundle = framer.photo_encoder.bundle
    if coding.predicts and framer.photo_encoder.encoder(bundle).codec.predicts:
        plan = control.plan(
            wanted,
            bundle.manifest,
            (photo.shape[1], photo.shape[0]),
            pixels,
            held=coding.held(bundle.short_id),
            taken_s=captured_at,
        )
        if plan is not None:
            planned = replace(wishes, rate=plan.target)
            frame = framer.frame(photo, planned, coding=coding, fit=plan.fit)
            plan.made(frame.sent[0], frame.file_bytes)
            return frame
    rate = control.target(wanted, states, pixels)
    frame = framer.frame(photo, replace(wishes, rate=rate), coding=coding)
    first = frame.sent[0]
    if first.passes == 0:
        # What regions add is learned as if the rest cost more.
        coded = first.state if rate.state is None else max(rate.state, first.state)
        row = next(row for row in states if row.state == coded)
        control.encoded(row, pixels, frame.file_bytes)
    return frame


def _pixels(photo_encoder: PhotoEncoder, photo: Photo) -> int:
    if not photo_encoder.bundle.manifest.scales_with_size or not isinstance(photo, np.ndarray):
        return TYPICAL_PIXELS
    return photo.shape[0] * photo.shape[1]


def _is_encoded(photo: Photo) -> bool:
    if isinstance(photo, str | Path):
        return Path(photo).suffix.lower() == ".fwf"
    return isinstance(photo, Bitstream)


PictureWish = bool | str | PictureEncoding | PictureRequest | None
"""True is PNG; or ``"png"``, ``"webp"``, ``"webp_lossless"``, or a request with a quality."""


class ServerTasks:
    """The tasks that a server has, and which bundles they can be run on."""

    def __init__(self, settings: ingest_pb2.ServerSettings) -> None:
        """settings: of the server's Welcome. Raises ``SessionError`` for names that are none."""
        self.available = parse_tasks(
            task.name for task in settings.tasks if not task.HasField("unavailable")
        )
        self.unavailable: dict[str, FeatherwireError] = {
            task.name: error_from_message(task.unavailable)
            for task in settings.tasks
            if task.HasField("unavailable")
        }
        self._on_features = frozenset(settings.feature_tasks)

    def possible(self, task: str, bundles: Iterable[Bundle]) -> bool:
        """Whether features of one of ``bundles`` are enough for ``task``."""
        return any(
            task in bundle.manifest.tasks
            or (makes_pictures(bundle) and task not in self._on_features)
            for bundle in bundles
        )

    def all_on(self, bundles: Sequence[Bundle]) -> tuple[str, ...]:
        """Every available task that ``bundles`` are enough for."""
        return tuple(task for task in self.available if self.possible(task, bundles))

    def at_once(
        self, tasks: tuple[str, ...], sent: Sequence[Bundle], kept: Sequence[Bundle]
    ) -> tuple[str, ...]:
        """``tasks`` without those that must wait until something of ``kept`` is sent too."""
        return tuple(
            task for task in tasks if self.possible(task, sent) or not self.possible(task, kept)
        )


def makes_pictures(bundle: Bundle) -> bool:
    """Whether a server can make a picture of features of this bundle."""
    return bool(bundle.manifest.pictures)


def picture_at_once(
    request: PictureRequest | None, sent: Sequence[Bundle], kept: Sequence[Bundle]
) -> PictureRequest | None:
    """``request``, unless it must wait until something of ``kept`` is sent too."""
    if any(map(makes_pictures, sent)) or not any(map(makes_pictures, kept)):
        return request
    return None


def picture_request(wish: PictureWish) -> PictureRequest | None:
    """A wish as a request. Raises ``SessionError("unknown_encoding")``."""
    if wish is None or wish is False:
        return None
    if isinstance(wish, PictureRequest):
        return wish
    try:
        return PictureRequest(PictureEncoding.PNG if wish is True else PictureEncoding(wish))
    except ValueError:
        known = ", ".join(PictureEncoding)
        raise SessionError("unknown_encoding", f"no encoding {wish!r}; there are {known}") from None


MIN_TIME_S, MAX_TIME_S = -62_135_596_800, 253_402_300_799
"""What a message can say: from the year 1 to the end of 9999."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a picture is from, and when it was taken: seconds since 1970. It is the ``source`` of
    the result of a ``CapturedPhoto``: pixels need not stay in memory until that is here."""

    name: str
    captured_at: float

    def __post_init__(self) -> None:
        """Raise PhotoError ``bad_time`` for a time outside the years 1 to 9999."""
        if not MIN_TIME_S <= self.captured_at <= MAX_TIME_S:
            raise PhotoError("bad_time", f"{self.captured_at!r} s since 1970 is no time of a photo")

    def __str__(self) -> str:
        return self.name


def taken_at(source: Photo | Origin) -> float | None:
    """When a picture was taken, where that is known."""
    return source.captured_at if isinstance(source, Origin) else None


def stamp(message: ingest_pb2.Frame, captured_at: float | None) -> None:
    """Say when a frame's picture was taken, in seconds since 1970; None is now."""
    if captured_at is None:
        message.captured_at.GetCurrentTime()
    else:
        message.captured_at.FromMicroseconds(round(captured_at * 1e6))


@dataclass(frozen=True, slots=True)
class CapturedPhoto:
    """A picture to send, and its origin."""

    photo: Photo
    origin: Origin


def parts(photo: Photo | CapturedPhoto) -> tuple[Photo, Photo | Origin]:
    """What is encoded, and what stands for it in its result."""
    return (photo.photo, photo.origin) if isinstance(photo, CapturedPhoto) else (photo, photo)

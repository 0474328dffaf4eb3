"""Photos and wishes as frames that are ready to go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry.trace import SpanKind, use_span

from edge_client.session.describe import Describer, Photo
from edge_client.session.kept import Part
from edge_client.session.switch import BundleSwitch
from edge_client.session.wishes import (
    PictureWish,
    ServerTasks,
    makes_pictures,
    picture_at_once,
    picture_request,
)
from shared.bundle import Bundle
from shared.errors import SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.targets import RateTarget, Regions
from shared.wire import PictureRequest
from shared.wire.deadlines import frame_deadline
from shared.wire.features import features_message
from shared.wire.requests import parse_tasks, picture_request_message
from shared.wire.tracing import frame_span, traceparent_of, tracer

RESULT_MARGIN_S = 5.0

SendWith = Iterable[str] | Mapping[str, int | None]
"""Names or ids of ``also`` bundles; or each with its state, None for the finest."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A frame ready to go: what is asked of it at once, and when more of it is sent.

    ``make_others`` makes the parts of which nothing is sent, None when there are none.
    ``traceparent``: of the span in which it was made, empty when nothing is traced.
    """

    parts: tuple[Part, ...]
    tasks: tuple[str, ...]
    picture: PictureRequest | None
    later: tuple[tuple[str, ...], PictureRequest | None]
    deadline_s: float
    make_others: Callable[[], tuple[Part, ...]] | None
    traceparent: str = ""


class Framer:
    """Makes frames for one server: what it can do decides what is asked of it."""

    def __init__(
        self,
        describer: Describer,
        settings: ingest_pb2.ServerSettings,
        *,
        also: Mapping[str, Bundle],
        tasks: Callable[[], tuple[str, ...] | None],
        deadline_s: float | None,
        regions: Callable[[], Regions] = tuple,
        switch: BundleSwitch | None = None,
    ) -> None:
        """settings: of the server's Welcome. also: the describer's further bundles, as they were
        named to the session. tasks: what runs now when a call names none; None is all that a frame
        is enough for. deadline_s: of every frame; None goes by the server's. regions: of the next
        photo. switch: says between frames which describer is to be used.
        """
        self.describer = describer
        self.server_tasks = ServerTasks(settings)
        self._named = also
        self._tasks = tasks
        self._regions = regions
        self.switch = switch
        self._deadline_s = deadline_s
        self._server_deadline_s = settings.frame_deadline_s

    @property
    def regions(self) -> Regions:
        """What is told more finely than the rest of the next photo."""
        return self._regions()

    def frame(
        self,
        photo: Photo,
        rate: RateTarget,
        tasks: Iterable[str] | None,
        picture: PictureWish,
        refinable: bool,
        send_with: SendWith,
        *,
        keep: bool = True,
    ) -> Outgoing:
        """Encode a photo, and say what is asked of it; without ``keep`` nothing is kept back.

        Raises what ``Describer.describe`` does, and ``SessionError``: unknown_bundle,
        unknown_encoding, invalid_message.
        """
        span = frame_span("frame", SpanKind.PRODUCER)
        with use_span(span, end_on_exit=True), tracer().start_as_current_span("describe"):
            described = self.describer.describe(
                photo,
                rate,
                refinable=refinable,
                send_with=self._short_ids(send_with),
                keep=keep,
                regions=self.regions,
            )
        parts, kept = described.parts, described.others
        sent = self.describer.bundles(part.bundle_id for part in parts)
        wanted = self.wanted_tasks(tasks, (*sent, *kept))
        request = picture_request(picture)
        first = parts[0].sent
        assert first is not None, "the first part is always sent"
        return Outgoing(
            parts,
            self.server_tasks.at_once(wanted, sent, kept),
            picture_at_once(request, sent, kept),
            (wanted, request),
            self.deadline_of(first.width, first.height),
            described.make_others if kept else None,
            traceparent_of(span),
        )

    def for_spool(
        self, frame: Outgoing, tasks: Iterable[str] | None
    ) -> tuple[ingest_pb2.Frame, bool]:
        """The frame's message without a sequence, asking for all that is wanted; and whether that
        is what the server has, which ``ask`` fills in when there is one."""
        named = self._tasks() if tasks is None else parse_tasks(tasks)
        message = ingest_pb2.Frame(
            features=[features_message(part.sent) for part in frame.parts if part.sent is not None],
            tasks=named or (),
            picture=picture_request_message(frame.later[1]),
            traceparent=frame.traceparent,
        )
        message.captured_at.GetCurrentTime()
        return message, named is None

    def ask(self, message: ingest_pb2.Frame, *, default_tasks: bool, kept: bool) -> None:
        """Settle what is asked of a spooled frame at once, as ``frame`` does for one that goes
        directly; ``kept``: whether the further bundles' parts are at hand."""
        ids = [features.bundle_short_id for features in message.features]
        sent = self.describer.bundles(ids)
        others = [bundle for short_id, bundle in self.describer.also.items() if short_id not in ids]
        waiting = others if kept else []
        wanted = (
            self.server_tasks.all_on((*sent, *waiting)) if default_tasks else tuple(message.tasks)
        )
        del message.tasks[:]
        message.tasks.extend(self.server_tasks.at_once(wanted, sent, waiting))
        if not any(map(makes_pictures, sent)) and any(map(makes_pictures, waiting)):
            message.ClearField("picture")

    def wanted_tasks(
        self, tasks: Iterable[str] | None, bundles: Sequence[Bundle]
    ) -> tuple[str, ...]:
        """``tasks``, or the session's, or all that ``bundles`` are enough for."""
        named = self._tasks() if tasks is None else parse_tasks(tasks)
        return self.server_tasks.all_on(bundles) if named is None else named

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
        bundles = (*self.describer.also.values(), self.describer.bundle)
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

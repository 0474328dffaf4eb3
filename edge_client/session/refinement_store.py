"""What a device keeps back of the frames that it has sent: finer layers, and other bundles'."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from shared.bitstream import Bitstream
from shared.bitstream.layers import Header
from shared.errors import BitstreamError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import PictureRequest
from shared.wire.features import header_of
from shared.wire.requests import Refine

STORED_FRAMES = 64
STORED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Part:
    """A picture's features by one bundle: what was sent of them, and the finest that are kept.

    At least one of the two is not None. ``finest`` is of the same chain as ``sent``.
    """

    sent: Bitstream | None
    finest: Bitstream | None

    @property
    def bundle_id(self) -> bytes:
        """Short id of the bundle."""
        some = self.sent or self.finest
        assert some is not None, "a part is sent or kept"
        return some.bundle_id


@dataclass(frozen=True, slots=True)
class Refinement(Refine):
    """Layers that take a frame's part to ``state``, and what is wanted of the frame then.

    ``payload_bytes``: of all that the server has of the frame with these layers.
    """

    payload_bytes: int = 0

    @property
    def state(self) -> int:
        """The finest of the layers."""
        return self.layers[-1].state


@dataclass(frozen=True, slots=True)
class _Frame:
    parts: tuple[Part, ...]
    tasks: tuple[str, ...]
    picture: PictureRequest | None

    @property
    def kept_bytes(self) -> int:
        return sum(part.finest.file_bytes for part in self.parts if part.finest is not None)


class RefinementStore:
    """The frames of a session that can be refined, the oldest forgotten first. Thread-safe."""

    def __init__(self, max_frames: int = STORED_FRAMES, max_bytes: int = STORED_BYTES) -> None:
        """At most ``max_frames`` frames with ``max_bytes`` of bitstreams in all."""
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._frames: OrderedDict[int, _Frame] = OrderedDict()
        self._unfinished: dict[int, _Frame] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def total_bytes(self) -> int:
        """Sum of the bitstreams that are kept."""
        return self._bytes

    def keep(
        self,
        sequence: int,
        parts: Sequence[Part],
        tasks: tuple[str, ...],
        picture: PictureRequest | None,
        *,
        more: bool = False,
    ) -> None:
        """Keep a frame, unless there is nothing more of it than was sent.

        ``tasks`` and ``picture`` are what a refinement that the server commands asks for. With
        ``more`` further parts are being made, and ``finish`` brings them.
        """
        frame = _Frame(tuple(parts), tasks, picture)
        with self._lock:
            if more:
                self._unfinished[sequence] = frame
            else:
                self._keep(sequence, frame)

    def went_out(self, message: ingest_pb2.Frame) -> None:
        """Note how a spooled frame goes out after all: coarser than it was made, or coded again.

        Finer layers that do not follow on that any more are forgotten: those of a predicted frame
        look at values that its receiver has of others.
        """
        headers = {}
        for features in message.features:
            with suppress(BitstreamError):  # what is damaged is the server's to refuse
                headers[features.bundle_short_id] = header_of(features)
        with self._lock:
            for frames in (self._unfinished, self._frames):
                frame = frames.get(message.sequence)
                if frame is None:
                    continue
                parts = tuple(_gone_out(part, headers.get(part.bundle_id)) for part in frame.parts)
                if parts != frame.parts:
                    frames[message.sequence] = replace(frame, parts=parts)
                    if frames is self._frames:
                        self._bytes += frames[message.sequence].kept_bytes - frame.kept_bytes

    def finish(self, sequence: int, parts: Sequence[Part]) -> None:
        """The further parts of a frame are here."""
        with self._lock:
            frame = self._unfinished.pop(sequence, None)
            if frame is not None:
                self._keep(sequence, replace(frame, parts=(*frame.parts, *parts)))

    def unfinished(self, sequence: int) -> bool:
        """Whether further parts of a frame are being made."""
        with self._lock:
            return sequence in self._unfinished

    def _keep(self, sequence: int, frame: _Frame) -> None:
        if frame.kept_bytes == 0:
            return
        self._frames[sequence] = frame
        self._bytes += frame.kept_bytes
        while len(self._frames) > self._max_frames or self._bytes > self._max_bytes:
            _, oldest = self._frames.popitem(last=False)
            self._bytes -= oldest.kept_bytes

    def refinement(self, sequence: int, bundle_id: bytes, state: int) -> Refinement:
        """The layers that a frame's part still lacks up to ``state``.

        bundle_id: short id; empty is the frame's first bundle. A part that was not sent yet begins
        with the coarsest state that is kept, so a coarser ``state`` gets that one; a finer one than
        is kept gets the finest. Raises ``SessionError("not_refinable")``.
        """
        with self._lock:
            frame = self._frames.get(sequence)
        if frame is None:
            raise _not_refinable(f"the layers of frame {sequence} are not kept here")
        part = _part(frame, bundle_id)
        if part is None or part.finest is None:
            raise _not_refinable(
                f"no more is kept of frame {sequence} than was sent of this bundle"
            )
        finest = part.finest
        reached = finest.truncate(max(finest.state, min(state, finest.layers[0].state)))
        sent_state = part.sent.state if part.sent is not None else finest.layers[0].state + 1
        layers = tuple(layer for layer in reached.layers if layer.state < sent_state)
        if not layers:
            raise _not_refinable(f"frame {sequence} was sent at state {sent_state} already")
        others = sum(
            other.sent.file_bytes
            for other in frame.parts
            if other is not part and other.sent is not None
        )
        return Refinement(
            sequence,
            layers,
            frame.tasks,
            frame.picture,
            part.bundle_id,
            reached.version,
            reached.file_bytes + others,
        )

    def sent(self, refinement: Refinement) -> None:
        """Note that the server has these layers now."""
        with self._lock:
            frame = self._frames.get(refinement.sequence)
            if frame is None:
                return
            parts = tuple(
                replace(part, sent=part.finest.truncate(refinement.state))
                if part.bundle_id == refinement.bundle_id and part.finest is not None
                else part
                for part in frame.parts
            )
            self._frames[refinement.sequence] = replace(frame, parts=parts)

    def size(self, sequence: int) -> tuple[int, int]:
        """Width and height of a frame's picture. Raises ``SessionError("not_refinable")``."""
        with self._lock:
            frame = self._frames.get(sequence)
        sizes = [(b.width, b.height) for p in (frame.parts if frame else ()) if (b := p.finest)]
        if not sizes:
            raise _not_refinable(f"the layers of frame {sequence} are not kept here")
        return sizes[0]

    def sent_bundles(self, sequence: int) -> tuple[bytes, ...]:
        """Short ids of the bundles of which the server has layers of this frame."""
        with self._lock:
            frame = self._frames.get(sequence)
        if frame is None:
            return ()
        return tuple(part.bundle_id for part in frame.parts if part.sent is not None)


def _part(frame: _Frame, bundle_id: bytes) -> Part | None:
    for part in frame.parts:
        if part.bundle_id == bundle_id or (not bundle_id and part.sent is not None):
            return part
    return None


def _gone_out(part: Part, header: Header | None) -> Part:
    sent, finest = part.sent, part.finest
    if header is None or sent is None or finest is None:
        return part
    if header.reference == sent.reference and header.state == sent.state:
        return part
    if header.reference is not None or sent.reference is not None:
        return Part(sent, None)
    return Part(finest.truncate(max(header.state, finest.state)), finest)


def _not_refinable(complaint: str) -> SessionError:
    return SessionError("not_refinable", complaint)

"""Groups of pictures: what the next frame may refer to, and when it must stand alone.

A group is a key frame and the predicted frames up to the next. What a frame refers to is always the
frame before it, as it was sent: what was kept back of that for refinement does not count. Every
bundle of a frame has its own reference; a group begins for all of them together.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from codec import EdgeCodec
from edge_client.session.refinement_store import Part
from shared.bitstream import Bitstream, format3
from shared.errors import BitstreamError, BudgetError, FeatherwireError

DEFAULT_FRAMES = 250
MAX_FRAMES = 1000
"""Of a group, whatever is asked for: a server that has lost its values decodes it anew."""
REFERENCE_REASONS = frozenset({"reference_lost", "reference_mismatch", "reference_needed"})
"""Why a server cannot decode a predicted frame, though it is sound."""

Reached = tuple[int, int]
"""What is sent of a bitstream: its finest complete state, and the passes of the next layer."""


@dataclass(frozen=True, slots=True)
class KeyEvery:
    """How long a group is at most: so many frames, or so many seconds; and never more than
    ``MAX_FRAMES``."""

    frames: int | None = DEFAULT_FRAMES
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.frames is not None and self.frames < 1) or (
            self.seconds is not None and not 0 < self.seconds < float("inf")
        ):
            raise BudgetError("bad_target", "a group has a frame, or some time, at least")

    @classmethod
    def parse(cls, text: str) -> KeyEvery:
        """``250`` frames, or ``10s``. Raises BudgetError ``bad_target``."""
        found = re.fullmatch(r"(\d+(?:\.\d*)?)(s?)", text.strip())
        if found is None or (not found[2] and not found[1].isdigit()):
            raise BudgetError(
                "bad_target",
                f"{text!r} is neither a number of frames nor of seconds, such as 250 or 10s",
            )
        return cls(None, float(found[1])) if found[2] else cls(int(found[1]))


@dataclass(frozen=True, slots=True)
class _Sent:
    """A bundle's part of a frame: what the receiver decodes of it."""

    codec: EdgeCodec[Any, Any]
    latents: Any
    bitstream: Bitstream


class Groups:
    """The groups of one session. Frames are made on one thread; the rest may come from any."""

    def __init__(
        self,
        every: KeyEvery | None = None,
        *,
        predict: bool = True,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """every: None is after 250 frames. predict: False makes key frames only."""
        self.predict = predict
        self.key_frames = self.predicted_frames = 0
        """Frames that were sent, by what their first bundle made of them."""
        self._every = every or KeyEvery()
        self._now_s = now_s
        self._lock = threading.Lock()
        self._sent: dict[bytes, _Sent] = {}
        self._sequence = self._first_sequence = 0
        self._frames, self._began_s = 0, 0.0
        self._generation = 0

    def begin(self) -> None:
        """The next frame begins a group; one that is being made is coded again as a key frame."""
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        self._generation += 1
        self._sent.clear()

    def failed(self, sequence: int, error: FeatherwireError, *, taken: bool) -> None:
        """A frame has an error for a result: what refers to it can perhaps not be decoded.

        taken: the server had accepted it. What a group before has suffered does not matter.
        """
        with self._lock:
            if (is_unreadable(error) or not taken) and sequence >= self._first_sequence:
                self._begin()

    def follow(self, sequence: int, reached: Mapping[bytes, Reached] | None) -> None:
        """What the spool has made of the last frame: made it coarser, or dropped it.

        reached: by short ids of bundles; None where the frame is gone, or has another number.
        """
        with self._lock:
            if not self._sent:
                return
            if reached is None or sequence != self._sequence:
                self._begin()
                return
            for short_id, sent in list(self._sent.items()):
                there = reached.get(short_id)
                if there is None:
                    del self._sent[short_id]
                elif there != (sent.bitstream.state, sent.bitstream.passes):
                    bitstream = sent.bitstream.truncate(there[0])
                    latents = sent.codec.cut(sent.latents, there[0])
                    self._sent[short_id] = _Sent(sent.codec, latents, bitstream)

    def next_frame(self, sequence: int, *, predicts: bool) -> Coding:
        """What the frame that will have this sequence may refer to.

        predicts: the server takes predicted frames.
        """
        with self._lock:
            every, predicts = self._every, predicts and self.predict
            late = every.seconds is not None and self._now_s() - self._began_s >= every.seconds
            full = self._frames >= min(every.frames or MAX_FRAMES, MAX_FRAMES)
            if self._sent and (late or full or not predicts):
                self._begin()
            sent = dict(self._sent) if sequence > self._sequence else {}
            return Coding(
                self, sequence, predicts, self._generation, sequence - self._sequence, sent
            )

    def _current(self, coding: Coding) -> bool:
        return coding.generation == self._generation

    def _take(self, coding: Coding, sent: dict[bytes, _Sent], first: Bitstream) -> None:
        with self._lock:
            alone = all(one.bitstream.reference is None for one in sent.values())
            if first.reference is None:
                self.key_frames += 1
            else:
                self.predicted_frames += 1
            if alone:
                self._first_sequence = coding.sequence
                self._frames, self._began_s = 0, self._now_s()
            self._frames += 1
            self._sequence = coding.sequence
            self._sent = sent if self._current(coding) else {}


class Coding:
    """What one frame may refer to, bundle by bundle, and what has become of it."""

    def __init__(
        self,
        groups: Groups,
        sequence: int,
        predicts: bool,
        generation: int,
        distance: int,
        references: Mapping[bytes, _Sent],
    ) -> None:
        """Use ``Groups.next_frame``."""
        self.sequence = sequence
        self.predicts = predicts
        """Whether the frame after this one may refer to it, so that its values are wanted."""
        self.generation = generation
        self.distance = distance
        self._groups = groups
        self._references = references
        self._made: dict[bytes, _Sent] = {}

    def reference(self, short_id: bytes) -> Any | None:
        """The values that a bundle's part may refer to, ``distance`` frames before this one."""
        found = self._references.get(short_id)
        return None if found is None else found.latents

    def held(self, short_id: bytes) -> int | None:
        """The state at which the receiver has that reference; None where there is none."""
        found = self._references.get(short_id)
        return None if found is None else found.bitstream.state

    @property
    def grows(self) -> bool:
        """Whether the next frame may refer to this one."""
        return bool(self._made)

    def made(self, codec: EdgeCodec[Any, Any], latents: Any, bitstream: Bitstream) -> None:
        """A part is made; latents: what the receiver decodes of it, None where nobody can tell."""
        if latents is not None:
            self._made[bitstream.bundle_id] = _Sent(codec, latents, bitstream)

    def still_right(self, sequence: int) -> bool:
        """Whether the frame may be sent under this number as it was made."""
        if all(one.bitstream.reference is None for one in self._made.values()):
            return True
        return sequence == self.sequence and self._groups._current(self)

    def standing_alone(self, parts: Sequence[Part], sequence: int) -> tuple[Part, ...]:
        """The parts as those of a key frame, without loss; nothing finer of them is kept."""
        found = [self._made.get(part.bundle_id) for part in parts]
        alone: list[Part] = []
        for part, made in zip(parts, found, strict=True):
            if part.sent is None or part.sent.reference is None or made is None:
                alone.append(part)
                continue
            bitstream = made.codec.key_frame(made.latents)
            alone.append(Part(bitstream, None))
            self._made[part.bundle_id] = replace(made, bitstream=bitstream)
        self.sequence, self.generation = sequence, self._groups._generation
        return tuple(alone)

    def sent(self, parts: Sequence[Part]) -> None:
        """The frame is on its way, or in the spool: the next one may refer to it."""
        there = [part.sent for part in parts if part.sent is not None]
        made = {
            one.bundle_id: self._made[one.bundle_id] for one in there if one.bundle_id in self._made
        }
        self._groups._take(self, made, there[0])


def is_unreadable(error: FeatherwireError) -> bool:
    """Whether a frame with this error for a result is one of which the server has no values."""
    return error.reason in REFERENCE_REASONS or isinstance(error, BitstreamError)


def can_predict(version: int) -> bool:
    """Whether a version of the bitstream's format has predicted frames."""
    return version > format3.VERSION

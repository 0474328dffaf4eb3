"""A bundle's stream, frame after frame: bytes as a session sends them, and what is decoded.

Every state is a stream of its own, as a device would send it at that rate. Where the codec
predicts, a frame is encoded with what the frame before was decoded to, a key frame comes every so
many frames and wherever the codec makes one. Both ends decode, and must hold the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.video.clips import Pixels
from codec.base import Latents, open_cloud, open_edge
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.targets import RateTarget
from training.evaluate.photos import EvaluationError

KEYS, PREDICTED = "keys", "predicted"


@dataclass
class OurStream:
    """A state's stream so far, JSON-ready.

    sizes: bytes of every frame. keys: which stand alone. unchanged: of which no value differs from
    its reference's. encode_s: CPU seconds of encoding all frames from RGB, network included.
    decode_ms: CPU milliseconds of decoding a frame to latents, of those that were decoded, by
    KEYS and PREDICTED.
    """

    sizes: list[int] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    unchanged: list[bool] = field(default_factory=list)
    encode_s: float = 0.0
    decode_ms: dict[str, list[float]] = field(default_factory=lambda: {KEYS: [], PREDICTED: []})


def modes_of(bundle: Bundle) -> tuple[str, ...]:
    """KEYS, and PREDICTED where the bundle's codec predicts."""
    return (KEYS, PREDICTED) if open_edge(bundle).predicts else (KEYS,)


class BundleStreams:
    """Streams of one bundle at several states, encoded side by side: the network runs once."""

    def __init__(self, bundle: Bundle, states: Sequence[int], *, mode: str, key_every: int) -> None:
        """mode: KEYS for key frames alone, or PREDICTED. key_every: frames from a key frame to the
        next at most. Raises BundleError for a damaged bundle.
        """
        self._edge = EdgeEncoder(bundle).codec
        self._cloud = open_cloud(bundle)
        self._predicts, self._key_every = mode == PREDICTED, key_every
        self.streams = {state: OurStream() for state in states}

    def frames(
        self, frames: Iterable[Pixels], wanted: frozenset[int]
    ) -> Iterator[tuple[int, int, Latents]]:
        """Frame number, state and latents of every state of the wanted frames.

        Raises EvaluationError ``ends_differ`` when edge and cloud decode to different values; what
        codecs raise.
        """
        references: dict[int, _Reference] = {}
        for number, frame in enumerate(frames):
            began = time.process_time()
            prepared = self._edge.prepare(frame)
            prepare_s = time.process_time() - began
            for state, stream in self.streams.items():
                stream.encode_s += prepare_s
                found = self._one(prepared, number, state, references, number in wanted)
                if found is not None and number in wanted:
                    yield number, state, found

    def _one(
        self,
        prepared: Any,
        number: int,
        state: int,
        references: dict[int, _Reference],
        wanted: bool,
    ) -> Latents | None:
        stream, target = self.streams[state], RateTarget(state=state)
        # Without references, or when it is time for a key frame, there is none to give.
        before = references.get(state) if number % self._key_every else None
        mine, theirs = (None, None) if before is None else (before.mine, before.theirs)
        began = time.process_time()
        bitstream = self._edge.encode(prepared, target, reference=mine)
        if self._predicts:  # a device needs what it sent as the next frame's reference
            mine = self._edge.decode(bitstream, reference=mine)
        stream.encode_s += time.process_time() - began
        key = bitstream.reference is None
        stream.sizes.append(len(bitstream.to_bytes(with_bundle=False)))
        stream.keys.append(key)
        if not (wanted or self._predicts):
            stream.unchanged.append(False)
            return None
        began = time.process_time()
        found: Latents = self._cloud.decode(bitstream, reference=theirs)
        stream.decode_ms[KEYS if key else PREDICTED].append(1000 * (time.process_time() - began))
        same = False
        if mine is not None:
            values = found.checksum()
            if mine.checksum() != values:
                text = f"frame {number}, state {state}: edge and cloud hold different values"
                raise EvaluationError("ends_differ", text)
            same = not key and before is not None and before.values == values
            references[state] = _Reference(mine, found, values)
        stream.unchanged.append(same)
        return found


@dataclass(frozen=True)
class _Reference:
    """What both ends have decoded the frame before to, and the checksum of that."""

    mine: Latents
    theirs: Latents
    values: bytes

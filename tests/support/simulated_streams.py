"""A camera whose scene moves, rests and is cut, and what a codec makes of it, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_client.rate import RateControl
from shared.bitstream import Bitstream, Layer, Reference
from shared.bundle import Bundle, Manifest, StateSpec
from shared.targets import FINEST, RateTarget

SIZE = (768, 576)
PIXELS = SIZE[0] * SIZE[1]
LAYERS = (700, 450, 600, 900, 1250)
"""Bytes of a key frame's layers, the coarsest first: 3.9 kB in all, about those of `detect`."""
COARSEST = len(LAYERS) - 1
STILL, MOVING, WILD = 0.004, 0.1, 0.3
"""Of a key frame's bytes: what predicted frames take."""


def embedded_manifest() -> Manifest:
    """Of one chain of states whose key frames have :data:`LAYERS`, typically."""
    states = tuple(
        StateSpec(
            state=COARSEST - k,
            typical_bits_per_pixel=8 * sum(LAYERS[: k + 1]) / PIXELS,
            begins=k == 0,
        )
        for k in reversed(range(len(LAYERS)))
    )
    manifest = Bundle.load("shared/bundles/picture").manifest
    return manifest.model_copy(update={"states": states})


@dataclass(frozen=True)
class SentFrame:
    """A frame on its way. at_s: when it was taken. there_s: when the receiver has all of it."""

    at_s: float
    posted_s: float
    there_s: float
    state: int
    size: int
    key: bool


@dataclass
class Camera:
    """Frames of a scene, over a link.

    activity: at a time, of a key frame's bytes what a predicted one takes. cuts: times after which
    the next frame stands alone. keys_s: seconds after which one does anyway. busy_s:
    for how long the server has a frame at most before it acknowledges it. says: whether it says so.
    """

    control_of: Callable[[Callable[[], float]], RateControl]
    activity: Callable[[float], float]
    cuts: Sequence[float] = ()
    keys_s: float = 25.0
    fps: float = 10.0
    noise: float = 0.3
    bandwidth: float = 1e7
    propagation_s: float = 0.04
    busy_s: float = 0.0
    says: bool = True
    seed: int = 1
    wanted: RateTarget = FINEST
    now_s: float = 0.0
    frames: list[SentFrame] = field(default_factory=list)
    offered: int = 0

    def run(self, seconds: float) -> list[SentFrame]:
        """What was sent by then. Pictures that come while a frame waits are overtaken."""
        rng = random.Random(self.seed)
        manifest, cuts = embedded_manifest(), sorted(self.cuts)
        control = self.control_of(lambda: self.now_s)
        acks: list[tuple[float, int, float]] = []
        held: int | None = None
        free_s, key_s = 0.0, 0.0

        def until(at_s: float) -> None:
            while acks and acks[0][0] <= at_s:
                self.now_s, number, server_s = acks.pop(0)
                control.acknowledged(number, server_s if self.says else 0.0)
            self.now_s = max(self.now_s, at_s)

        for number in range(round(seconds * self.fps)):
            at_s = number / self.fps
            self.offered += 1
            if at_s < self.now_s - 1e-9:
                continue
            until(at_s)
            if at_s - key_s >= self.keys_s:
                held = None
            cut = bool(cuts and cuts[0] <= at_s)
            if cut:
                cuts.pop(0)
            plan = control.plan(self.wanted, manifest, SIZE, PIXELS, held=held, taken_s=at_s)
            assert plan is not None
            assert plan.target.state is not None
            coded = self._coded(rng, plan.target.state, None if cut else held, at_s)
            sent = coded.truncate(plan.fit(coded))
            plan.made(sent, sent.file_bytes)
            held, key = sent.state, sent.reference is None
            key_s = at_s if key else key_s
            while (wait_s := control.wait_s(sent.file_bytes)) > 0:
                until(self.now_s + min(wait_s, 0.05))
            control.posted(number, sent.file_bytes)
            free_s = max(self.now_s, free_s) + sent.file_bytes / self.bandwidth
            there_s = free_s + self.propagation_s
            said_s = there_s + rng.uniform(0.0, self.busy_s)
            said_s = max(said_s, acks[-1][0] if acks else 0.0)
            acks.append((said_s, number, said_s - there_s))
            self.frames.append(
                SentFrame(at_s, self.now_s, free_s, sent.state, sent.file_bytes, key)
            )
        return self.frames

    def _coded(self, rng: random.Random, state: int, held: int | None, at_s: float) -> Bitstream:
        share = self.activity(at_s) * rng.uniform(1 - self.noise, 1 + self.noise)
        layers = []
        for own in range(COARSEST, state - 1, -1):
            predicted = held is not None and own >= held
            size = LAYERS[COARSEST - own] * (share if predicted else rng.uniform(0.9, 1.1))
            layers.append(Layer(own, bytes(max(2, round(size)))))
        reference = None if held is None else Reference(1, b"0000")
        return Bitstream(b"12345678", *SIZE, state, tuple(layers), reference=reference)


def most_over(frames: Sequence[SentFrame], seconds: float, cost: Callable[[int], float]) -> float:
    """The most bytes that are posted in any span of so many seconds."""
    most, total, first = 0.0, 0.0, 0
    for frame in frames:
        total += cost(frame.size)
        while frames[first].posted_s <= frame.posted_s - seconds:
            total -= cost(frames[first].size)
            first += 1
        most = max(most, total)
    return most

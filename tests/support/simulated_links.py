"""A link in virtual time: bytes go one after another, and an acknowledgement comes back."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from codec.settings import DiffusionState
from edge_client.rate import RateControl
from shared.targets import RateTarget

PIXELS = 640 * 480


@dataclass
class Link:
    """Runs a source of pictures over a link. ``states``: (time, state) of each frame sent."""

    control_of: Callable[[Callable[[], float]], RateControl]
    bandwidth: Callable[[float], float]
    """Bytes a second at a time."""
    ladder: list[DiffusionState]
    propagation_s: float = 0.05
    noise: float = 0.1
    jitter_s: float = 0.0
    """Acknowledgements are late by up to this."""
    offered_fps: float = 1.0
    seed: int = 1
    now_s: float = 0.0
    states: list[tuple[float, int]] = field(default_factory=list)
    sent: list[tuple[float, int]] = field(default_factory=list)
    delays: list[tuple[float, float]] = field(default_factory=list)

    def run(self, seconds: float) -> RateControl:
        """Offer pictures until then; one that may not go at its time is dropped."""
        rng = random.Random(self.seed)
        control = self.control_of(lambda: self.now_s)
        by_state = {row.state: row for row in self.ladder}
        acks: list[tuple[float, int]] = []
        free_s = 0.0
        sequence = 0
        step = 0
        while (at_s := step / self.offered_fps) < seconds:
            step += 1
            while acks and acks[0][0] <= at_s:
                self.now_s, number = acks.pop(0)
                control.acknowledged(number)
            self.now_s = at_s
            target = control.target(RateTarget(), self.ladder, PIXELS)
            assert target.state is not None
            row = by_state[target.state]
            expected = row.typical_bits_per_pixel * PIXELS / 8
            size = max(40, int(expected * rng.uniform(1 - self.noise, 1 + self.noise)))
            control.encoded(row, PIXELS, size)
            if control.wait_s(size) > 0:
                continue
            sequence += 1
            control.posted(sequence, size)
            self.states.append((at_s, row.state))
            self.sent.append((at_s, size))
            begin_s = max(at_s, free_s)
            free_s = begin_s + size / self.bandwidth(begin_s)
            back_s = free_s + self.propagation_s + rng.uniform(0.0, self.jitter_s)
            acks.append((max(back_s, acks[-1][0] if acks else 0.0), sequence))
            self.delays.append((at_s, free_s - at_s))
        return control


def ladder(growth: float, count: int, coarsest_bpp: float) -> list[DiffusionState]:
    """States whose typical rates grow by ``growth`` from the coarsest one."""
    return [
        DiffusionState(
            state=count - 1 - k, depths=(), typical_bits_per_pixel=coarsest_bpp * growth**k
        )
        for k in range(count)
    ]

"""What frames of a stream are expected to take, state by state, learned from those that were made.

States are counted from the coarsest, 0, to the finest. An embedded frame tells what it would have
taken at every coarser state too. What it does not tell, the finer states, is scaled with what it
does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

PREDICTED = 0.1
"""Of a key frame's bytes: what a predicted one is thought to take while there was none."""
_KEY_STEP = 0.3
_UP_STEP = 0.2
_DOWN_STEP = 0.1
_USUAL_SHARE = 0.02
_USUAL_FRAMES, _SHARE_FRAMES = 50, 250
_LEAST = 8.0


@dataclass(frozen=True, slots=True)
class Told:
    """A frame as it was coded, before anything of it was left out.

    sizes: bytes of its file at each state that it has. held: the finest state of the frame that it
    refers to, None for a key frame. Its layers finer than that were told as a key frame's.
    """

    sizes: Mapping[int, int]
    held: int | None


class StateCosts:
    """Expected bytes of key frames and of predicted ones at each state, and of changes of state."""

    def __init__(self, typical: Sequence[float], chains: Sequence[int]) -> None:
        """typical: bytes of a key frame at each state, coarsest first. chains: of each state which
        chain it is of; only within one a frame can keep what is there."""
        self._key = [max(_LEAST, size) for size in typical]
        self._predicted = [PREDICTED * size for size in self._key]
        self._chains = tuple(chains)
        self._key_frames = self._predicted_frames = 0
        self._share = _USUAL_SHARE

    def key(self, state: int) -> float:
        """Bytes of a key frame."""
        return self._key[state]

    def predicted(self, state: int) -> float:
        """Bytes of a frame that refers to one at this state or a finer one."""
        return self._predicted[state]

    def mean(self, state: int) -> float:
        """Bytes of a frame of the stream, key frames included as often as they came."""
        return self._predicted[state] + self._share * max(
            0.0, self._key[state] - self._predicted[state]
        )

    def change(self, held: int, state: int) -> float:
        """Bytes of a frame at a state that refers to one at the state ``held``."""
        if self._chains[held] != self._chains[state]:
            return self._key[state]
        layers = max(0.0, self._key[state] - self._key[held])
        return self._predicted[min(held, state)] + layers

    def learn(self, told: Told) -> None:
        """Note what a frame took."""
        is_key = told.held is None
        frames = _USUAL_FRAMES + self._key_frames + self._predicted_frames
        self._share += (is_key - self._share) / min(frames, _SHARE_FRAMES)
        if is_key:
            step = max(_KEY_STEP, 1 / (self._key_frames + 1))
            _move(self._key, told.sizes, step, step)
            self._key_frames += 1
            if not self._predicted_frames:
                self._predicted = [PREDICTED * size for size in self._key]
            return
        assert told.held is not None
        known = {state: size for state, size in told.sizes.items() if state <= told.held}
        finer = sorted(state for state in told.sizes if state >= told.held)
        for below, state in pairwise(finer):
            layer = told.sizes[state] - told.sizes[below]
            here = max(_LEAST, self._key[state] - self._key[below])
            scale = 1 + _KEY_STEP * (layer / here - 1)
            for index in range(state, len(self._key)):
                self._key[index] += here * (scale - 1)
        if known:
            first = not self._predicted_frames
            _move(self._predicted, known, *((1.0, 1.0) if first else (_UP_STEP, _DOWN_STEP)))
            self._predicted_frames += 1


def _move(costs: list[float], sizes: Mapping[int, int], up: float, down: float) -> None:
    """Move costs towards sizes, those of other states in proportion; finer ones are never less."""
    seen = sorted(sizes)
    before = {state: costs[state] for state in seen}
    for state in seen:
        step = up if sizes[state] > costs[state] else down
        costs[state] = max(_LEAST, costs[state] + step * (sizes[state] - costs[state]))
    for state in range(len(costs)):
        if state not in before:
            near = min(seen, key=lambda other: abs(other - state))
            costs[state] *= costs[near] / before[near]
        if state:
            costs[state] = max(costs[state], costs[state - 1])

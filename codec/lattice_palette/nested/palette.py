"""Nested scalar palettes: lattices of which each splits the steps of the coarser one in three.

A plane is a group of channels. At depth d of a plane of depth D its channels are whole multiples of
``step * 3**(D - d)``; at depth 0 nothing is known of them, and their mean stands for them. A value
v at one depth is ``floor((v + 1) / 3)`` at the depth before, the nearest step there too: so
rounding once, at the finest depth that is sent, rounds at all of them, and by the chain rule the
layers cost together what the finest alone would. Three is the least ratio at which lattices
through 0 nest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from codec.latents import Features
from codec.lattice_palette.planes import (
    channels,
    check_order,
    check_plane,
    plane_arrays,
    read_array,
    read_planes,
)
from codec.layered import StatePalette
from codec.settings import DiffusionState, PlaneSpec
from shared.errors import BundleError

RATIO: Final = 3
MAX_DEPTH: Final = 5
MAX_LIMIT: Final = 4095
"""Of values at the finest depth, in steps."""

Integers = npt.NDArray[np.int32]
Values = Mapping[str, Integers]
"""Whole steps of every plane's channels at some depth: int32 [C, h, w] a plane."""
Depths = Mapping[str, npt.NDArray[np.uint8]]
"""How deep each position of a plane is known: uint8 [h, w]."""


class NestedPass(NamedTuple):
    """One step of the stream.

    In a key frame a plane's channels go from ``depth`` to the next at the positions of a phase. In
    a predicted frame one step tells where anything changes in the layer at all (``plane`` empty;
    at the positions of a phase), and then one step a plane tells all that does.
    """

    plane: str
    depth: int
    phase: int


@dataclass(frozen=True, slots=True, eq=False)
class NestedPlane:
    """A plane's palettes.

    step: of the finest lattice, above 0. limits: int16 [C], the largest absolute value at the
    finest depth. means: float32 [C], what stands for a channel of which nothing is known. Raises
    BundleError ``bad_palette``, ``bad_planes``.
    """

    spec: PlaneSpec
    step: float
    limits: npt.NDArray[np.int16]
    means: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        check_plane(self.spec, self.step, self.limits, self.means, MAX_LIMIT)
        if self.spec.depth > MAX_DEPTH:
            raise BundleError("bad_planes", f"plane {self.spec.name} is deeper than {MAX_DEPTH}")

    def step_at(self, depth: int) -> np.float32:
        """Of the lattice at ``depth``, 1 or more."""
        return np.float32(self.step * RATIO ** (self.spec.depth - depth))

    def limits_at(self, depth: int) -> npt.NDArray[np.int32]:
        """Int32 [C]: the largest absolute values at ``depth``."""
        return coarser(self.limits.astype(np.int32), self.spec.depth - depth)


class NestedPalette(StatePalette[NestedPass]):
    """The planes of one chain of states."""

    def __init__(
        self,
        planes: Sequence[NestedPlane],
        states: Sequence[DiffusionState],
        order: npt.NDArray[np.uint8],
        weights: npt.NDArray[np.float32],
    ) -> None:
        """order: uint8 [period, period], the phase of the position (row, column) modulo period;
        phases from 0 up without a gap. weights: float32 [states], squared steps that a bit is worth
        to encoders of predicted frames, 0 or more. Raises BundleError ``bad_palette``,
        ``bad_planes``, ``bad_states``.
        """
        self.planes = {plane.spec.name: plane for plane in planes}
        self.specs = tuple(plane.spec for plane in planes)
        super().__init__(self.specs, states)
        check_order(order)
        self.order = order
        if (
            weights.dtype != np.float32
            or weights.shape != (len(self.states),)
            or not np.isfinite(weights).all()
            or weights.min() < 0
        ):
            raise BundleError("bad_palette", "a state takes a weight of bits, 0 or more")
        self.weights = weights
        if any(spec.scale != self.specs[0].scale for spec in self.specs):
            raise BundleError("bad_planes", "the planes of nested lattices are of one scale")
        self.channels = sum(spec.channels for spec in self.specs)

    @property
    def phases(self) -> int:
        """Passes that a plane takes in a key frame, a depth."""
        return int(self.order.max()) + 1

    def depths(self, state: int) -> tuple[int, ...]:
        """Of every plane at ``state``, in the planes' order; 0 past the coarsest."""
        if state > self.coarsest_state:
            return (0,) * len(self.specs)
        return self.states[state - self.finest_state].depths

    def told(self, state: int) -> tuple[tuple[str, int], ...]:
        """Planes and depths that lead from ``state + 1`` to ``state``, in the stream's order:
        coarse depths of all planes first."""
        rows = zip(self.specs, self.depths(state + 1), self.depths(state), strict=True)
        found = [
            (depth, n, spec.name) for n, (spec, a, b) in enumerate(rows) for depth in range(a, b)
        ]
        return tuple((name, depth) for depth, _, name in sorted(found))

    def coarser(self, values: Integers, times: int) -> Integers:
        """Values (int32, any shape) as they are ``times`` depths before."""
        return np.asarray(coarser(values, times), np.int32)

    def below(self, values: Integers, times: int) -> tuple[Integers, Integers]:
        """The least and the greatest of all that values may become ``times`` depths later."""
        reach = (RATIO**times - 1) // 2
        middle = values * RATIO**times
        return middle - reach, middle + reach

    def centres(self, plane: str, values: Integers, depth: int) -> npt.NDArray[Any]:
        """What a plane's values at ``depth`` stand for, in steps of that depth."""
        return values

    def passes(self, state: int) -> tuple[NestedPass, ...]:
        """What leads from state ``state + 1`` to ``state`` in a key frame."""
        return tuple(
            NestedPass(plane, depth, phase)
            for plane, depth in self.told(state)
            for phase in range(self.phases)
        )

    def predicted_passes(self, state: int) -> tuple[NestedPass, ...]:
        """The same in a predicted frame; see :class:`NestedPass`."""
        where = tuple(NestedPass("", 0, phase) for phase in range(self.phases))
        return where + tuple(NestedPass(plane, depth, 0) for plane, depth in self.told(state))

    def exact(
        self, features: Features, depths: Sequence[int]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Features in steps of each plane's depth: float32 [C, h, w] of planes with a depth above
        0."""
        found = {}
        for spec, depth in zip(self.specs, depths, strict=True):
            if depth:
                step = self.planes[spec.name].step_at(depth)
                found[spec.name] = features[spec.scale][channels(spec)] / step
        return found

    def quantise(self, features: Features, state: int) -> dict[str, npt.NDArray[np.int32]]:
        """The nearest whole steps at the depths of ``state``: int32 [C, h, w] a plane."""
        depths = self.depths(state)
        exact = self.exact(features, depths)
        found = {}
        for spec, depth in zip(self.specs, depths, strict=True):
            if not depth:
                shape = (spec.channels, *features[spec.scale].shape[1:])
                found[spec.name] = np.zeros(shape, np.int32)
                continue
            limits = self.planes[spec.name].limits_at(depth)[:, None, None]
            whole = np.rint(exact[spec.name]).clip(-limits, limits)
            found[spec.name] = whole.astype(np.int32)
        return found

    def decode(self, values: Values, depths: Depths) -> dict[str, npt.NDArray[np.float32]]:
        """Whole steps at ``depths`` -> float32 [C, h, w] of the scale."""
        parts = []
        for name, plane in self.planes.items():
            steps = np.array(
                [0.0, *(plane.step_at(depth) for depth in range(1, plane.spec.depth + 1))],
                np.float32,
            )
            here = depths[name]
            exact = values[name].astype(np.float32) * steps[here]
            known = (here > 0)[None]
            parts.append(
                exact if known.all() else np.where(known, exact, plane.means[:, None, None])
            )
        return {self.specs[0].scale: np.concatenate(parts)}

    def depths_of(self, values: Values, state: int) -> dict[str, npt.NDArray[np.uint8]]:
        """Depths of values of which all positions are known as at ``state``."""
        return {
            spec.name: np.full(values[spec.name].shape[1:], depth, np.uint8)
            for spec, depth in zip(self.specs, self.depths(state), strict=True)
        }

    def distortion(self, features: Features, values: Values, state: int) -> dict[str, float]:
        """Mean squared error of values at the depths of ``state``, by scale."""
        known = self.decode(values, self.depths_of(values, state))
        return {name: float(np.square(known[name] - features[name]).mean()) for name in known}

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything palette.npz holds."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            _order_name(self.specs): self.order,
            _weights_name(self.specs): self.weights,
        }
        for name, plane in self.planes.items():
            arrays |= plane_arrays(name, plane.step, plane.limits, plane.means)
        return arrays

    @classmethod
    def from_arrays(
        cls,
        planes: Sequence[PlaneSpec],
        states: Sequence[DiffusionState],
        arrays: Mapping[str, npt.NDArray[np.generic]],
    ) -> NestedPalette:
        """Read what :meth:`to_arrays` gave. Raises BundleError."""
        order, weights = (
            read_array(arrays, name) for name in (_order_name(planes), _weights_name(planes))
        )
        return cls(read_planes(NestedPlane, planes, arrays), states, order, weights)


def is_nested(planes: Sequence[PlaneSpec], arrays: Mapping[str, npt.NDArray[np.generic]]) -> bool:
    """Whether a chain of these planes is of nested lattices, by what palette.npz holds."""
    return bool(planes) and _order_name(planes) in arrays


def coarser(values: npt.NDArray[Any], times: int) -> npt.NDArray[Any]:
    """Values ``times`` depths up: of the same type."""
    for _ in range(times):
        values = (values + 1) // RATIO
    return values


def _order_name(planes: Sequence[PlaneSpec]) -> str:
    """A chain's order is kept with its first plane."""
    return f"{planes[0].name}.nested"


def _weights_name(planes: Sequence[PlaneSpec]) -> str:
    return f"{planes[0].name}.weights"

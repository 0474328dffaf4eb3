"""Scalar palettes: the whole steps of every channel, and the order in which they are sent.

A plane is a group of channels that are sent together. The forward chain has one step a plane: all
values of a channel merge into its mean. A state is a choice of planes that are sent; coarser states
send fewer. Rounding to a lattice with entropy coding is within a quarter of a bit a value of the
best possible (Gish and Pierce 1968), and its error looks like noise, which networks mind least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

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

Values = dict[str, npt.NDArray[np.int32]]
"""Whole steps of every plane's channels: int32 [C, h, w] a plane."""

MAX_LIMIT: Final = 127


class LatticePass(NamedTuple):
    """One step of the stream: a plane's channels at the positions of a phase."""

    plane: str
    phase: int


@dataclass(frozen=True, slots=True, eq=False)
class LatticePlane:
    """A plane's palettes.

    step: of the lattice, above 0. limits: int16 [C], the largest absolute value in steps, 1 to 127.
    means: float32 [C], what stands for a channel that is not sent.
    """

    spec: PlaneSpec
    step: float
    limits: npt.NDArray[np.int16]
    means: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        check_plane(self.spec, self.step, self.limits, self.means, MAX_LIMIT)
        if self.spec.depth != 1:
            raise BundleError("bad_planes", f"plane {self.spec.name}: a lattice's depth is 1")

    def quantise(self, channels: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """float32 [..., C, h, w] -> int32, the nearest whole steps within the limits."""
        limits = self.limits[:, None, None].astype(np.float32)
        steps = np.rint(channels / np.float32(self.step))
        whole: npt.NDArray[np.int32] = np.clip(steps, -limits, limits).astype(np.int32)
        return whole


class LatticePalette(StatePalette[LatticePass]):
    """The planes of one chain of states."""

    def __init__(
        self,
        planes: Sequence[LatticePlane],
        states: Sequence[DiffusionState],
        order: npt.NDArray[np.uint8],
    ) -> None:
        """order: uint8 [period, period], the phase of the position (row, column) modulo period;
        phases from 0 up without a gap. Raises BundleError ``bad_palette``, ``bad_planes``,
        ``bad_states``.
        """
        self.planes = {plane.spec.name: plane for plane in planes}
        self.specs = tuple(plane.spec for plane in planes)
        super().__init__(self.specs, states)
        self.order = order
        self._check()

    @property
    def phases(self) -> int:
        """Passes that a plane takes."""
        return int(self.order.max()) + 1

    def sent(self, state: int) -> tuple[str, ...]:
        """The planes that ``state`` sends, in the stream's order; none past the coarsest."""
        if state > self.coarsest_state:
            return ()
        row = self.states[state - self.finest_state]
        return tuple(spec.name for spec, depth in zip(self.specs, row.depths, strict=True) if depth)

    def passes(self, state: int) -> tuple[LatticePass, ...]:
        """What leads from state ``state + 1`` to ``state``, in the stream's order."""
        before = self.sent(state + 1)
        return tuple(
            LatticePass(plane, phase)
            for plane in self.sent(state)
            if plane not in before
            for phase in range(self.phases)
        )

    def quantise(self, features: Features) -> Values:
        """Features per scale float32 [C, h, w] -> whole steps of all planes."""
        return {
            name: plane.quantise(features[plane.spec.scale][channels(plane.spec)])
            for name, plane in self.planes.items()
        }

    def decode(
        self,
        values: Mapping[str, npt.NDArray[np.int32]],
        known: Mapping[str, npt.NDArray[np.bool_]],
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Whole steps -> float32 [C, h, w] for every scale.

        known: bool [h, w] a plane, where its values have been sent; elsewhere are the means.
        """
        scales: dict[str, list[npt.NDArray[np.float32]]] = {}
        for name, plane in self.planes.items():
            exact = values[name].astype(np.float32) * np.float32(plane.step)
            here = np.where(known[name], exact, plane.means[:, None, None])
            scales.setdefault(plane.spec.scale, []).append(here)
        return {scale: np.concatenate(groups) for scale, groups in scales.items()}

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything palette.npz holds."""
        arrays: dict[str, npt.NDArray[np.generic]] = {_order_name(self.specs): self.order}
        for name, plane in self.planes.items():
            arrays |= plane_arrays(name, plane.step, plane.limits, plane.means)
        return arrays

    @classmethod
    def from_arrays(
        cls,
        planes: Sequence[PlaneSpec],
        states: Sequence[DiffusionState],
        arrays: Mapping[str, npt.NDArray[np.generic]],
    ) -> LatticePalette:
        """Read what :meth:`to_arrays` gave. Raises BundleError."""
        made = read_planes(LatticePlane, planes, arrays)
        return cls(made, states, read_array(arrays, _order_name(planes)))

    def _check(self) -> None:
        check_order(self.order)
        for row in self.states:
            # What is sent is sent in order: contexts are of the planes before.
            if list(row.depths) != sorted(row.depths, reverse=True) or not row.depths[0]:
                raise BundleError("bad_states", f"state {row.state} leaves out a plane in between")


def _order_name(planes: Sequence[PlaneSpec]) -> str:
    """A chain's order is kept with its first plane."""
    return f"{planes[0].name}.order"

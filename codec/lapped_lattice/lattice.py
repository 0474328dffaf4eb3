"""Nested lattices with a dead zone at every depth.

A plane's values at its deepest are whole multiples of ``step``; at each depth before they are a
third of that, rounded towards zero, so that zero takes in twice the width of the other values: a
coefficient that is just large enough to be seen costs more bits than it saves error (the embedded
quantiser of JPEG 2000, Taubman and Marcellin 2002, with threes instead of twos). Below 0 lie -2 to
2, below any other value q the three of its sign from 3 |q| up. A value stands for a little more
than its least: ``lean`` of the way to the middle and beyond is where values lie on average.

Rounding at the deepest leans towards zero too. It is done once, and coarser values follow from it,
so that a cut file is what encoding at the coarser state gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from codec.latents import Features
from codec.lattice_palette.nested.palette import (
    RATIO,
    Depths,
    Integers,
    NestedPalette,
    NestedPlane,
    Values,
)
from codec.lattice_palette.planes import read_array, read_planes
from codec.settings import DiffusionState, PlaneSpec
from shared.errors import BundleError

FloatArray = npt.NDArray[np.float32]


class LappedPlane(NestedPlane):
    """A plane whose coarser values are thirds, rounded towards zero."""

    def limits_at(self, depth: int) -> Integers:
        """Int32 [C]: the largest absolute values at ``depth``."""
        return towards_zero(self.limits.astype(np.int32), self.spec.depth - depth)


class LappedPalette(NestedPalette):
    """The planes of the one chain of states."""

    def __init__(
        self,
        planes: Sequence[NestedPlane],
        states: Sequence[DiffusionState],
        order: npt.NDArray[np.uint8],
        weights: FloatArray,
        *,
        dead: float = 0.0,
        lean: float = 0.0,
    ) -> None:
        """dead: of rounding, see :func:`rounded`. lean: see above, both from 0 to below 1. Raises
        BundleError ``bad_palette`` and as NestedPalette does.
        """
        for name, share in (("dead zone", dead), ("lean", lean)):
            if not 0 <= share < 1:
                raise BundleError("bad_palette", f"a {name} is a share from 0 to 1, not {share}")
        super().__init__(planes, states, order, weights)
        self.dead, self.lean = np.float32(dead), np.float32(lean)

    def quantise(self, features: Features, state: int) -> dict[str, Integers]:
        """Whole steps at the depths of ``state``: int32 [C, h, w] a plane."""
        exact = self.exact(features, tuple(spec.depth for spec in self.specs))
        found = {}
        for spec, depth in zip(self.specs, self.depths(state), strict=True):
            limits = self.planes[spec.name].limits_at(spec.depth)[:, None, None]
            whole = rounded(exact[spec.name], self.dead).clip(-limits, limits).astype(np.int32)
            known = towards_zero(whole, spec.depth - depth) if depth else np.zeros_like(whole)
            found[spec.name] = known
        return found

    def coarser(self, values: Integers, times: int) -> Integers:
        """See :meth:`NestedPalette.coarser`: rounded towards zero."""
        return towards_zero(values, times)

    def below(self, values: Integers, times: int) -> tuple[Integers, Integers]:
        """See :meth:`NestedPalette.below`: zero may become either sign, others keep theirs."""
        least, reach = values * RATIO**times, RATIO**times - 1
        return least - reach * (values <= 0), least + reach * (values >= 0)

    def centres(self, plane: str, values: Integers, depth: int) -> FloatArray:
        """See :meth:`NestedPalette.centres`: values lean away from zero."""
        share = np.float32(leant(self.planes[plane].spec.depth - depth, self.lean))
        return np.asarray(values + np.sign(values) * share, np.float32)

    def decode(self, values: Values, depths: Depths) -> dict[str, FloatArray]:
        """Whole steps at ``depths`` -> float32 [C, h, w] of the scale."""
        parts = []
        for name, plane in self.planes.items():
            each = range(1, plane.spec.depth + 1)
            steps = np.array([0.0, *(plane.step_at(depth) for depth in each)], np.float32)
            added = [leant(plane.spec.depth - depth, self.lean) for depth in each]
            shares = np.array([0.0, *added], np.float32)
            here, whole = depths[name], values[name].astype(np.float32)
            exact = (whole + np.sign(whole) * shares[here]) * steps[here]
            known = (here > 0)[None]
            parts.append(np.where(known, exact, plane.means[:, None, None]))
        return {self.specs[0].scale: np.concatenate(parts)}

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything palette.npz holds."""
        first = self.specs[0].name
        return super().to_arrays() | {
            f"{first}.dead": np.array(self.dead, np.float32),
            f"{first}.lean": np.array(self.lean, np.float32),
        }

    @classmethod
    def from_arrays(
        cls,
        planes: Sequence[PlaneSpec],
        states: Sequence[DiffusionState],
        arrays: Mapping[str, npt.NDArray[np.generic]],
    ) -> LappedPalette:
        """Read what :meth:`to_arrays` gave. Raises BundleError."""
        first = planes[0].name
        names = (f"{first}.nested", f"{first}.weights", f"{first}.dead", f"{first}.lean")
        order, weights, dead, lean = (read_array(arrays, name) for name in names)
        for value in (dead, lean):
            if value.dtype != np.float32 or value.shape != ():
                raise BundleError("bad_palette", "dead zone and lean are each a float32")
        made = read_planes(LappedPlane, planes, arrays)
        return cls(made, states, order, weights, dead=float(dead), lean=float(lean))


def towards_zero(values: Integers, times: int) -> Integers:
    """Values ``times`` depths up."""
    size = np.abs(values) // RATIO**times
    return np.asarray(np.where(values < 0, -size, size), np.int32)


def leant(times: int, lean: float | np.float32) -> float:
    """What is added to a value other than 0, in its own steps, ``times`` depths above the deepest:
    nothing there, and ``lean`` of the way over all that it may become."""
    return float(lean) * (1 - 1 / float(RATIO) ** times)


def rounded(exact: FloatArray, dead: float | np.float32) -> FloatArray:
    """Values in the deepest steps to whole ones: those below 0.5 + dead to zero, and the others up
    from dead / 2 above a half."""
    size, surplus = np.abs(exact), np.float32(dead) / 2
    whole = np.floor(size + np.where(size < 1, 0.5 - 2 * surplus, 0.5 - surplus))
    return np.asarray(np.copysign(np.maximum(whole, 0), exact), np.float32)

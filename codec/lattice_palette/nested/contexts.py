"""The contexts of one chain of nested lattices: networks and tables, as contexts.npz has them.

Of what they give the odds, and what they look at, is in
:mod:`~codec.lattice_palette.nested.picture`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from codec.lattice_palette.nested.network import (
    INPUT_LIMIT,
    ODDS_LIMIT,
    BitNetwork,
    Evaluator,
)
from codec.lattice_palette.nested.palette import Depths, NestedPalette, Values
from codec.lattice_palette.nested.picture import BENT_LIMIT, SHARES, PictureNested
from codec.lattice_palette.nested.seen import Recorder
from codec.lattice_palette.nested.surroundings import AROUND, CROSS
from shared.errors import BundleError

_ODDS = "nested.odds"
_BENT = "nested.bent"
_WHERE = "nested.where"


def inputs_of(
    palette: NestedPalette, plane: str, *, predicted: bool, neighbours: bool = True
) -> int:
    """How many integers the network of a plane looks at, at any depth. neighbours: whether one of
    predicted frames looks at values of a position and at those beside it in the reference too, as
    those of older bundles do not."""
    own = next(spec.channels for spec in palette.specs if spec.name == plane)
    if predicted:
        narrow = palette.channels + 2 * own + 2 * len(AROUND)
        wider = palette.channels + (len(CROSS) - 1) * own
        return narrow + wider if neighbours else narrow
    return len(CROSS) * palette.channels + (len(AROUND) + 1) * own


def where_shape(palette: NestedPalette) -> tuple[int, ...]:
    """Of the table that says where something changes."""
    return (len(SHARES) + 1, len(palette.states), palette.phases, 2, len(AROUND) + 1)


def network_names(palette: NestedPalette, kind: str) -> tuple[tuple[str, str, int], ...]:
    """Name, plane and depth of all networks. kind: ``key`` or ``predicted``."""
    return tuple(
        (f"{kind}.{spec.name}.{depth}", spec.name, depth)
        for spec in palette.specs
        for depth in range(spec.depth)
    )


class NestedContexts:
    """The contexts of one chain (contexts.npz). Holds no per-picture state."""

    def __init__(
        self,
        palette: NestedPalette,
        networks: Mapping[str, BitNetwork],
        odds: npt.NDArray[np.uint16],
        bent: npt.NDArray[np.int16],
        where: npt.NDArray[np.uint16] | None,
    ) -> None:
        """networks: by the names of :func:`network_names`. odds: see
        :func:`~codec.lattice_palette.nested.network.odds_table`. bent: int16 [2 * 255 + 1], what
        values -255 to 255 are to networks. where: uint16 [3, states, phases, 2, 9], P * 2**16 that
        something changes at a position, by how much of the picture does, whether it did here in the
        layer before, and at how many neighbours; None, with no ``predicted`` networks, predicts
        nothing. Raises BundleError ``bad_contexts``.
        """
        self.palette, self.networks = palette, dict(networks)
        self.odds, self.bent, self.where = odds, bent, where
        self._check()
        self._fast = {name: Evaluator(one) for name, one in self.networks.items()}

    @property
    def predicts(self) -> bool:
        """Whether there are contexts of predicted frames."""
        return self.where is not None

    @classmethod
    def from_arrays(
        cls, palette: NestedPalette, arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> NestedContexts:
        """Read contexts.npz's arrays. Raises BundleError ``bad_contexts``."""
        first = palette.specs[0].name
        for name in (f"{first}.{_ODDS}", f"{first}.{_BENT}"):
            if name not in arrays:
                raise BundleError("bad_contexts", f"contexts.npz lacks {name}")
        where = arrays.get(f"{first}.{_WHERE}")
        kinds = ("key",) if where is None else ("key", "predicted")
        networks = {
            name: BitNetwork.from_arrays(name, arrays)
            for kind in kinds
            for name, _, _ in network_names(palette, kind)
        }
        return cls(palette, networks, arrays[f"{first}.{_ODDS}"], arrays[f"{first}.{_BENT}"], where)  # type: ignore[arg-type]

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything contexts.npz holds."""
        first = self.palette.specs[0].name
        arrays: dict[str, npt.NDArray[np.generic]] = {
            f"{first}.{_ODDS}": self.odds,
            f"{first}.{_BENT}": self.bent,
        }
        if self.where is not None:
            arrays[f"{first}.{_WHERE}"] = self.where
        for name, network in self.networks.items():
            arrays |= network.to_arrays(name)
        return arrays

    def open(
        self,
        shape: tuple[int, int],
        reference: tuple[Values, Depths] | None = None,
        *,
        dtype: type[np.generic] = np.float32,
        recorder: Recorder | None = None,
    ) -> PictureNested:
        """Begin a picture of which nothing is known.

        shape: rows and columns. reference: values and depths of the frame that it is predicted
        from. dtype: float32 (fast), float64 or int64, which give the same odds.
        """
        kind = self._pictures()
        return kind(self, self.evaluators(dtype), shape, reference, dtype, recorder)

    def _pictures(self) -> type[PictureNested]:
        """Of which class pictures are."""
        return PictureNested

    def evaluators(self, dtype: type[np.generic]) -> Mapping[str, Evaluator]:
        """The networks in a type of number."""
        if dtype is np.float32:
            return self._fast
        return {name: Evaluator(one, dtype) for name, one in self.networks.items()}

    def _check(self) -> None:
        palette, where = self.palette, self.where
        if self.odds.dtype != np.uint16 or self.odds.shape != (2 * ODDS_LIMIT + 1,):
            raise BundleError("bad_contexts", f"{_ODDS} must be uint16 [{2 * ODDS_LIMIT + 1}]")
        if self.odds.min() < 1:
            raise BundleError("bad_contexts", f"{_ODDS} must be 1 or more")
        bent = self.bent
        if bent.dtype != np.int16 or bent.shape != (2 * BENT_LIMIT + 1,) or bent[BENT_LIMIT]:
            raise BundleError("bad_contexts", f"{_BENT} must be int16 [{2 * BENT_LIMIT + 1}]")
        if np.abs(bent.astype(int)).max() > INPUT_LIMIT:
            raise BundleError("bad_contexts", f"{_BENT} is beyond {INPUT_LIMIT}")
        if where is not None:
            wanted = where_shape(palette)
            if where.dtype != np.uint16 or where.shape != wanted or where.min() < 1:
                raise BundleError(
                    "bad_contexts", f"{_WHERE} must be uint16 {list(wanted)}, above 0"
                )
        for kind in ("key", "predicted") if self.predicts else ("key",):
            for name, plane, _ in network_names(palette, kind):
                network, spec = self.networks[name], palette.planes[plane].spec
                predicted = kind == "predicted"
                inputs = (
                    inputs_of(palette, plane, predicted=predicted),
                    inputs_of(palette, plane, predicted=predicted, neighbours=False),
                )
                if network.channels != spec.channels or network.inputs not in inputs:
                    raise BundleError("bad_contexts", f"network {name} fits another palette")

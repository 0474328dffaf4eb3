"""What planes of every kind of lattice share: their arrays, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from codec.settings import PlaneSpec
from shared.errors import BundleError

_MAX_PERIOD: Final = 8

Arrays = Mapping[str, npt.NDArray[np.generic]]
P = TypeVar("P")


def channels(spec: PlaneSpec) -> slice:
    """Where a plane's channels are among its scale's."""
    return slice(spec.first_channel, spec.first_channel + spec.channels)


def check_plane(
    spec: PlaneSpec,
    step: float,
    limits: npt.NDArray[np.int16],
    means: npt.NDArray[np.float32],
    most: int,
) -> None:
    """Raise BundleError ``bad_palette`` unless these are of a plane's lattice.

    step: above 0. limits: int16 [C], 1 to ``most``, the largest absolute values. means: float32
    [C].
    """
    shape = (spec.channels,)
    if not (
        np.isfinite(step)
        and step > 0
        and limits.dtype == np.int16
        and limits.shape == shape
        and limits.min() >= 1
        and limits.max() <= most
        and means.dtype == np.float32
        and means.shape == shape
        and np.isfinite(means).all()
    ):
        raise BundleError(
            "bad_palette",
            f"plane {spec.name}: a lattice takes a step above 0, int16 limits of 1 to "
            f"{most} and float32 means, {shape[0]} of them",
        )


def check_order(order: npt.NDArray[Any]) -> None:
    """Raise BundleError ``bad_palette`` unless it gives every position a phase.

    order: uint8 [period, period], the phase of the position (row, column) modulo period; phases
    from 0 up without a gap.
    """
    if (
        order.dtype != np.uint8
        or order.ndim != 2
        or order.shape[0] != order.shape[1]
        or not 1 <= len(order) <= _MAX_PERIOD
        or set(np.unique(order).tolist()) != set(range(int(order.max()) + 1))
    ):
        raise BundleError(
            "bad_palette", "the order of positions must be a small square of phases from 0 up"
        )


def plane_arrays(
    name: str, step: float, limits: npt.NDArray[np.int16], means: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[np.generic]]:
    """A plane's part of palette.npz; :func:`read_planes` is the inverse."""
    return {
        f"{name}.step": np.array(step, np.float32),
        f"{name}.limits": limits,
        f"{name}.means": means,
    }


def read_array(arrays: Arrays, name: str) -> Any:
    """One of palette.npz. Raises BundleError ``bad_palette`` where it is missing."""
    if name not in arrays:
        raise BundleError("bad_palette", f"palette.npz lacks {name}")
    return arrays[name]


def read_planes(
    make: Callable[[PlaneSpec, float, npt.NDArray[np.int16], npt.NDArray[np.float32]], P],
    specs: Sequence[PlaneSpec],
    arrays: Arrays,
) -> list[P]:
    """A plane of each spec: ``make(spec, step, limits, means)``. Raises BundleError."""
    made = []
    for spec in specs:
        step, limits, means = (
            read_array(arrays, f"{spec.name}.{part}") for part in ("step", "limits", "means")
        )
        if step.dtype != np.float32 or step.shape != ():
            raise BundleError("bad_palette", f"plane {spec.name}: the step is no float32")
        made.append(make(spec, float(step), limits, means))
    return made

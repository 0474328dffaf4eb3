"""Integer arithmetic that any two machines agree on, for networks that give probabilities.

They compute integers in float32. Every sum of absolute terms stays below 2**24: float32 holds such
integers, in whatever order they are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.errors import BundleError

NumberArray = npt.NDArray[Any]
"""float32 (fast), float64 or int64: integers in all of them, and the same ones."""

ACTIVATION_LIMIT: Final = 255
UNIT: Final = 64
"""The integer that stands for 1.0, in inputs and activations of context networks."""
EXACT_BELOW: Final = 1 << 24
_INT16_BELOW: Final = 1 << 15


def shifted(values: NumberArray, shift: int) -> NumberArray:
    """floor(values / 2**shift), exactly; may overwrite values."""
    if values.dtype.kind == "i":
        return values >> shift
    values *= values.dtype.type(2.0**-shift)
    return np.floor(values, out=values)


def activated(values: NumberArray, shift: int) -> NumberArray:
    """clip(values >> shift, 0, 255); may overwrite values, which the bound keeps in 16 bits.

    Truncation and floor differ below 0 only, where both become 0.
    """
    if values.dtype.kind == "i":
        return np.clip(values >> shift, 0, ACTIVATION_LIMIT)
    values *= values.dtype.type(2.0**-shift)
    small = values.astype(np.int16)
    np.clip(small, np.int16(0), np.int16(ACTIVATION_LIMIT), out=small)
    np.copyto(values, small)
    return values


def absolute(values: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Absolute values that cannot overflow."""
    return np.abs(values.astype(np.int64))


def check_integers(
    name: str,
    values: npt.NDArray[np.generic],
    dtype: type[np.integer[Any]],
    shape: tuple[int, ...],
) -> None:
    """Raise BundleError ``bad_contexts`` unless the values are of that type and shape."""
    if values.dtype != np.dtype(dtype) or values.shape != shape:
        raise BundleError(
            "bad_contexts",
            f"{name} must be {np.dtype(dtype)} {list(shape)}, "
            f"got {values.dtype} {list(values.shape)}",
        )


def read_fields(
    kind: type[Any], prefix: str, arrays: Mapping[str, npt.NDArray[np.generic]]
) -> dict[str, Any]:
    """The arrays that a dataclass of arrays has as its fields, by their names after ``prefix``.

    Raises BundleError ``bad_contexts`` when one is missing that has no default; ``trunk`` is no
    array.
    """
    found = {}
    for one in fields(kind):
        if one.name == "trunk":
            continue
        if prefix + one.name in arrays:
            found[one.name] = arrays[prefix + one.name]
        elif one.default is MISSING:
            raise BundleError("bad_contexts", f"contexts.npz lacks {prefix + one.name!r}")
    return found


def named_fields(part: Any, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
    """The inverse of :func:`read_fields`."""
    names = [one.name for one in fields(part) if one.name != "trunk"]
    found = {prefix + name: getattr(part, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def check_bound(bound: npt.NDArray[np.int64], shift: int) -> None:
    """Every partial sum is exact in float32, and fits 16 bits once it is shifted.

    Raises BundleError ``bad_contexts``.
    """
    largest = int(bound.max(initial=0))
    if largest >= EXACT_BELOW or largest >> shift >= _INT16_BELOW:
        raise BundleError(
            "bad_contexts",
            f"sums of up to {largest} (shifted by {shift}) are not exact on every machine; "
            f"they must stay below {EXACT_BELOW}, and shifted below {_INT16_BELOW}",
        )

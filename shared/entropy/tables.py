"""The static probability tables of a bundle (contexts.npz): integers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.errors import BundleError

PROBABILITY_ONE = 1 << 16
PASSES = 2
MAX_BINS = 64


@dataclass(frozen=True, slots=True, eq=False)
class ContextTables:
    """One plane's tables.

    thresholds: int32 [bins - 1], ascending: cuts of the neighbourhood score, see
    :mod:`shared.entropy.contexts`. probabilities: uint16 [2 passes, 2**depth - 1 nodes, bins],
    P(bit = 1) * 2**16, at least 1.
    """

    thresholds: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.uint16]

    def __post_init__(self) -> None:
        bins = len(self.thresholds) + 1
        if (
            self.thresholds.dtype != np.int32
            or self.thresholds.ndim != 1
            or not 1 <= bins <= MAX_BINS
            or np.any(np.diff(self.thresholds) <= 0)
        ):
            raise BundleError("bad_contexts", "thresholds must be ascending int32")
        table = self.probabilities
        if (
            table.dtype != np.uint16
            or table.ndim != 3
            or (table.shape[0], table.shape[2]) != (PASSES, bins)
            or table.min(initial=1) < 1
        ):
            raise BundleError(
                "bad_contexts",
                f"probabilities must be uint16 [{PASSES}, nodes, {bins}], at least 1; "
                f"got {table.dtype} {list(table.shape)}",
            )

    @property
    def bins(self) -> int:
        """Number of neighbourhood score bins."""
        return len(self.thresholds) + 1

    def to_arrays(self, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        """Named arrays for contexts.npz."""
        return {
            f"{prefix}.thresholds": self.thresholds,
            f"{prefix}.probabilities": self.probabilities,
        }

    @classmethod
    def from_arrays(
        cls, prefix: str, arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> ContextTables:
        """Read what :meth:`to_arrays` wrote. Raises BundleError if anything is missing."""
        try:
            return cls(
                arrays[f"{prefix}.thresholds"],  # type: ignore[arg-type]  # checked above
                arrays[f"{prefix}.probabilities"],  # type: ignore[arg-type]
            )
        except KeyError as error:
            raise BundleError("bad_contexts", f"contexts.npz lacks {error}") from None

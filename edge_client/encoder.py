"""Photos to bitstreams at a rate chosen per picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_client.extractor import FeatureExtractor
from shared.bitstream import Bitstream, Layer
from shared.bitstream.container import HEADER_BYTES, layer_bytes
from shared.bundle import Bundle
from shared.codec import open_codec
from shared.errors import BudgetError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.preprocess import from_array, load_photo

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RateTarget:
    """What a picture may cost: at most one field is set; none means the finest state.

    state: a diffusion state, 0 finest. bits_per_pixel: of the whole file, per pixel of the
    picture. max_bytes: of the whole file.
    """

    state: int | None = None
    bits_per_pixel: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.state, self.bits_per_pixel, self.max_bytes) if v is not None]
        if len(given) > 1:
            raise BudgetError("two_targets", "give one of state, bits per pixel and bytes")
        if any(not value >= 0 for value in given):
            raise BudgetError("bad_target", f"a rate target must not be negative: {given[0]}")

    def budget_bytes(self, width: int, height: int) -> int | None:
        """The file's byte budget for a picture of that size, if the target is a rate."""
        if self.bits_per_pixel is not None:
            return int(min(self.bits_per_pixel * width * height / 8, 2**53))
        return self.max_bytes


class EdgeEncoder:
    """Encodes photos with one bundle. Not for use by two threads at once."""

    def __init__(
        self,
        bundle: Bundle | None = None,
        *,
        threads: int = 1,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """bundle: the default picture bundle when None. Raises BundleError when damaged."""
        self.bundle = bundle if bundle is not None else Bundle.load()
        self._limits = limits
        self._extractor = FeatureExtractor(self.bundle, threads=threads)
        self._codec = open_codec(self.bundle)

    def encode(
        self,
        photo: str | Path | bytes | Pixels,
        *,
        state: int | None = None,
        bits_per_pixel: float | None = None,
        max_bytes: int | None = None,
    ) -> Bitstream:
        """Encode a photo (a path, a file's bytes, or uint8 [H, W, 3] RGB) at a rate.

        At most one target is given; a rate is met from below by the finest state that fits.
        Raises PhotoError for what is no picture or has a refused size, and BudgetError
        ``unknown_state`` or ``budget_too_small``.
        """
        target = RateTarget(state, bits_per_pixel, max_bytes)
        self.check(target)
        if isinstance(photo, np.ndarray):
            image = from_array(photo, limits=self._limits)
        else:
            image = load_photo(photo, limits=self._limits)
        height, width = image.shape[:2]
        layers = self._layers(image, target)
        return Bitstream(self.bundle.short_id, width, height, layers[-1].state, tuple(layers))

    def _layers(self, image: Pixels, target: RateTarget) -> list[Layer]:
        height, width = image.shape[:2]
        budget = target.budget_bytes(width, height)
        finest = target.state or 0
        layers: list[Layer] = []
        total = HEADER_BYTES
        for layer in self._codec.layers(self._extractor(image)):
            total += layer_bytes(len(layer.payload))
            if budget is not None and total > budget:
                break
            layers.append(layer)
            if layer.state == finest:
                break
        if not layers:
            coarsest = self.bundle.manifest.coarsest_state
            raise BudgetError(
                "budget_too_small",
                f"the budget is {budget} bytes, but state {coarsest}, the coarsest, takes {total}",
                budget_bytes=budget,
                needed_bytes=total,
            )
        return layers

    def check(self, target: RateTarget) -> None:
        """Raise BudgetError ``unknown_state`` for a state that the bundle does not have."""
        coarsest = self.bundle.manifest.coarsest_state
        if target.state is not None and target.state > coarsest:
            raise BudgetError(
                "unknown_state", f"there is no state {target.state}; there are 0 to {coarsest}"
            )

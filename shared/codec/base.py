"""What every codec does, whichever paper it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shared.bitstream import Bitstream, Layer
from shared.palette.chain import Features, Indices

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Latents:
    """What a bitstream says: quantised features per scale (float32 [C, h, w]) at ``state``.

    width, height: of the picture before padding, in pixels. indices: what the features were looked
    up from, int32 [h, w] a plane.
    """

    scales: dict[str, FloatArray]
    indices: Indices
    state: int
    width: int
    height: int


class Codec(Protocol):
    """The numpy half of a codec, for both ends. Instances hold no per-picture state."""

    def layers(self, features: Features) -> Iterator[Layer]:
        """Layers from the coarsest state to state 0, each made when it is asked for.

        features: float32 [C, h, w] per scale of the padded picture. Raises ValueError when
        scales are missing or of a wrong shape.
        """

    def decode(self, bitstream: Bitstream) -> Latents:
        """Latents at the bitstream's state. Raises BitstreamError on anything but a valid one."""

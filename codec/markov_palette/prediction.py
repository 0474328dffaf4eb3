"""A finer scale predicted from the colours of a coarse one: linear, over 3x3 neighbourhoods.

The edge subtracts it before it quantises the finer scale, so that bits go to what is new: the
residual, the coarse scale's quantisation errors included. Only an encoder computes it. A decoder's
network sees both scales and has learned what the residual means, so that floating point noise
here never makes two machines disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.errors import BundleError

FloatArray = npt.NDArray[np.float32]

_KEY = re.compile(r"prediction\.(?P<scale>[a-z0-9_]+)\.(?P<source>[a-z0-9_]+)\.weight")


@dataclass(frozen=True, slots=True, eq=False)
class ScalePrediction:
    """Predicts ``scale``, whose grid is ``ratio`` times finer, from the colours of ``source``.

    weight: float32 [channels * ratio**2, source channels, 3, 3], the output channels in
    PixelShuffle's order (channel, row, column). bias: float32 [channels * ratio**2].
    """

    scale: str
    source: str
    weight: FloatArray
    bias: FloatArray

    def __post_init__(self) -> None:
        weight, bias = self.weight, self.bias
        if (
            weight.dtype != np.float32
            or bias.dtype != np.float32
            or weight.ndim != 4
            or weight.shape[2:] != (3, 3)
            or bias.shape != weight.shape[:1]
            or not np.isfinite(weight).all()
            or not np.isfinite(bias).all()
        ):
            raise BundleError(
                "bad_palette",
                f"the prediction of {self.scale} must be finite float32 [n, c, 3, 3] and [n]",
            )

    def ratio(self, channels: int) -> int:
        """Positions of ``scale`` per position of ``source``, along one side.

        Raises BundleError ``bad_palette`` when the weights do not fit that many channels.
        """
        ratio = int(np.sqrt(len(self.weight) // max(1, channels)))
        if ratio < 1 or channels * ratio**2 != len(self.weight):
            raise BundleError(
                "bad_palette",
                f"the prediction of {self.scale} has {len(self.weight)} outputs, "
                f"which fit no {channels} channels",
            )
        return ratio

    def predict(self, colours: FloatArray, channels: int) -> FloatArray:
        """Colours of the source [c, h, w] -> prediction [channels, ratio * h, ratio * w]."""
        ratio = self.ratio(channels)
        count, height, width = colours.shape
        padded = np.zeros((height + 2, width + 2, count), np.float32)
        padded[1:-1, 1:-1] = colours.transpose(1, 2, 0)
        total = np.broadcast_to(self.bias, (height * width, len(self.bias))).copy()
        for row in range(3):
            for column in range(3):
                window = padded[row : row + height, column : column + width].reshape(-1, count)
                total += window @ self.weight[:, :, row, column].T
        shuffled = total.reshape(height, width, channels, ratio, ratio).transpose(2, 0, 3, 1, 4)
        return shuffled.reshape(channels, height * ratio, width * ratio)

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Named arrays for palette.npz; :meth:`from_arrays` is the inverse."""
        prefix = f"prediction.{self.scale}.{self.source}"
        return {f"{prefix}.weight": self.weight, f"{prefix}.bias": self.bias}

    @classmethod
    def from_arrays(
        cls, scales: Iterable[str], arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> dict[str, ScalePrediction]:
        """The predictions among palette.npz's arrays, by the scale that they predict.

        A scale is predicted from one that comes before it in ``scales``. Raises BundleError.
        """
        order = list(dict.fromkeys(scales))
        found: dict[str, ScalePrediction] = {}
        for name in sorted(arrays):
            match = _KEY.fullmatch(name)
            if match is None:
                continue
            scale, source = match["scale"], match["source"]
            bias = arrays.get(name.removesuffix("weight") + "bias")
            earlier = order[: order.index(scale)] if scale in order else []
            if source not in earlier or scale in found or bias is None:
                raise BundleError("bad_palette", f"palette.npz: {name} predicts nothing here")
            found[scale] = cls(scale, source, arrays[name], bias)  # type: ignore[arg-type]  # checked above
        return found

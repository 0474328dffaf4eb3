"""What a region of interest costs and gains: bits, and the error inside and outside of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.markov_palette.reconstruct import PictureReconstructor
from codec.onnx import FeatureExtractor
from codec.registry import open_codec
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.targets import Region

Pixels = npt.NDArray[np.uint8]

BOX = (0.3, 0.3, 0.7, 0.7)
"""A sixth of the picture, in its middle."""

PAIRS = ((8, 0), (6, 0), (5, 0), (6, 3))
"""States of the rest and of the region."""


def regions(bundle: Bundle, photos: Iterable[Pixels]) -> list[dict[str, Any]]:
    """For every pair of states the means over photos: the rest's state for all of the picture, the
    region's for all of it, and the region's inside alone.

    Errors are in decibels of the reconstruction, and mean squared ones of the features that are
    decoded, relative to their variance.
    """
    judge = _Judge(bundle)
    found: dict[tuple[int, int, str], list[tuple[float, ...]]] = {}
    for pixels in photos:
        extracted = judge.features(pixels)
        for rest, inside in PAIRS:
            region = Region(*BOX, inside)
            for kind, state, wanted in (
                ("all coarse", rest, ()),
                ("all fine", inside, ()),
                ("region", rest, (region,)),
            ):
                bitstream = judge.encoder.encode(pixels, state=state, regions=wanted)
                figures = judge.figures(bitstream, pixels, extracted)
                found.setdefault((rest, inside, kind), []).append(figures)
    names = ("bits_per_pixel", "psnr_in", "psnr_out", "feature_error_in", "feature_error_out")
    return [
        {"rest": rest, "inside": inside, "coded": kind, "photos": len(values)}
        | dict(zip(names, np.mean(values, axis=0).round(4).tolist(), strict=True))
        for (rest, inside, kind), values in found.items()
    ]


def regions_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| rest, region | coded | bits per pixel | PSNR in | out | feature error in | out |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['rest']}, {row['inside']} | {row['coded']} | {row['bits_per_pixel']:.4f} | "
        f"{row['psnr_in']:.2f} | {row['psnr_out']:.2f} | {row['feature_error_in']:.3f} | "
        f"{row['feature_error_out']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


class _Judge:
    def __init__(self, bundle: Bundle) -> None:
        self.encoder = EdgeEncoder(bundle)
        self._extractor = FeatureExtractor(bundle)
        self._codec = open_codec(bundle)
        self._reconstructor = PictureReconstructor.from_bundle(bundle)

    def features(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Those of the coarsest scale, which are decoded as they are."""
        values = self._extractor(pixels)
        return values[min(values, key=lambda name: values[name].shape[1])]

    def figures(
        self, bitstream: Bitstream, pixels: Pixels, features: npt.NDArray[np.float32]
    ) -> tuple[float, ...]:
        latents = self._codec.decode(bitstream)
        (picture,) = self._reconstructor.reconstruct([latents])
        decoded = latents.scales[min(latents.scales, key=lambda n: latents.scales[n].shape[1])]
        apart = np.square(picture.astype(np.float64) - pixels).mean(2)
        wrong = np.square(decoded - features).mean(0) / features.var()
        inside, place = _inside(apart.shape), _inside(wrong.shape)
        return (
            bitstream.bits_per_pixel,
            _psnr(apart[inside]),
            _psnr(apart[~inside]),
            float(wrong[place].mean()),
            float(wrong[~place].mean()),
        )


def _inside(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    left, top, right, bottom = BOX
    rows, columns = shape
    mask[int(top * rows) : int(bottom * rows), int(left * columns) : int(right * columns)] = True
    return mask


def _psnr(squared: npt.NDArray[np.float64]) -> float:
    return float(10 * np.log10(255**2 / squared.mean()))

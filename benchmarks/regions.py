"""What a region of interest costs and gains: bits, and the error inside and outside of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.base import open_cloud, open_edge, trainer
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.targets import RateTarget, Region

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
        prepared = judge.edge.prepare(pixels)
        for rest, inside in PAIRS:
            region = Region(*BOX, inside)
            for kind, state, wanted in (
                ("all coarse", rest, ()),
                ("all fine", inside, ()),
                ("region", rest, (region,)),
            ):
                stream = judge.edge.encode(prepared, RateTarget(state=state), regions=wanted)
                figures = judge.figures(stream, pixels, extracted)
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
    """Both halves of a codec of features; the coarsest scale is decoded as it is."""

    def __init__(self, bundle: Bundle) -> None:
        self.edge, self._cloud = open_edge(bundle), open_cloud(bundle)
        self._reconstructor = self._cloud.open_reconstructor()
        self._uncut = trainer(bundle.manifest.codec).uncut(bundle)

    def features(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Those of the coarsest scale, as they are."""
        assert self._uncut is not None
        return _coarsest(self._uncut.encode(pixels)[1].scales)

    def figures(
        self, bitstream: Bitstream, pixels: Pixels, features: npt.NDArray[np.float32]
    ) -> tuple[float, ...]:
        latents = self._cloud.decode(bitstream)
        (picture,) = self._reconstructor.reconstruct([latents])
        apart = np.square(picture.astype(np.float64) - pixels).mean(2)
        wrong = np.square(_coarsest(latents.scales) - features).mean(0) / features.var()
        inside, place = _inside(apart.shape), _inside(wrong.shape)
        return (
            bitstream.bits_per_pixel,
            _psnr(apart[inside]),
            _psnr(apart[~inside]),
            float(wrong[place].mean()),
            float(wrong[~place].mean()),
        )


def _coarsest(scales: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    return scales[min(scales, key=lambda name: scales[name].shape[1])]


def _inside(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    left, top, right, bottom = BOX
    rows, columns = shape
    mask[int(top * rows) : int(bottom * rows), int(left * columns) : int(right * columns)] = True
    return mask


def _psnr(squared: npt.NDArray[np.float64]) -> float:
    return float(10 * np.log10(255**2 / squared.mean()))

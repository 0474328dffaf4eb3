"""How long files of nested lattices are, before there is a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from codec.entropy import BitWriter, bit_encoder
from codec.lattice_palette.nested.contexts import NestedContexts
from codec.lattice_palette.nested.palette import NestedPalette
from codec.lattice_palette.nested.picture import Exchange, PictureNested
from shared.bitstream import FORMAT_VERSION
from shared.bitstream.container import header_bytes, layer_bytes


@dataclass(frozen=True)
class NestedFiles:
    """A chain's palette and contexts."""

    palette: NestedPalette
    contexts: NestedContexts

    def typical_bytes(self, latents: Mapping[str, Tensor], sides: tuple[int, int]) -> list[float]:
        """Median bytes of key frames as whole files at every state, finest first.

        latents: float32 [photos, C, h, w] of the scale. sides: width and height that files name.
        """
        ((scale, whole),) = latents.items()
        rows = [self._sizes({scale: photo.numpy()}, sides) for photo in whole]
        return [float(value) for value in np.median(np.array(rows), axis=0)]

    def _sizes(
        self, features: Mapping[str, npt.NDArray[np.float32]], sides: tuple[int, int]
    ) -> list[int]:
        palette, state = self.palette, self.palette.finest_state
        rows, columns = next(iter(features.values())).shape[1:]
        picture = self.contexts.open((rows, columns))
        picture.aim(palette.quantise(features, state), palette.depths(state))
        total = 0
        sizes: list[int] = []
        for layer in range(palette.coarsest_state, state - 1, -1):
            encoder = bit_encoder(FORMAT_VERSION)
            picture.begin(layer)
            for step in palette.passes(layer):
                picture.run(step, _into(encoder, picture))
            total += layer_bytes(len(encoder.payload()), FORMAT_VERSION)
            sizes.append(header_bytes(FORMAT_VERSION, *sides, layer, len(sizes) + 1) + total)
        return sizes[::-1]


def _into(encoder: BitWriter, picture: PictureNested) -> Exchange:
    def exchange(odds: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
        bits = picture.wanted()
        encoder.encode(bits, odds)
        return bits

    return exchange

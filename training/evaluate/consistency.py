"""How much of what was sent a reconstruction still says when it is encoded again.

In latent space a vivid reconstruction agrees exactly: whatever the sampler draws merges to the
received indices. In pixels it need not: synthesis and extractor come between. Both are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec.base import Rendering
from codec.layered import FeatureLatents
from codec.markov_palette.palette import Indices
from codec.markov_palette.reconstruct import VIVID
from shared.bundle import Bundle
from training.evaluate.under_test import BundleCoder

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Agreement:
    """Shares of positions and planes, 0..1, whose index at ``state`` is the received one.

    latents: of the sampler's draw, merged. vivid, faithful: of the pictures, encoded again.
    """

    state: int
    photos: int
    latents: float
    vivid: float
    faithful: float


class ConsistencyCheck:
    """Encodes, reconstructs both ways, and encodes again; with one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError for a damaged bundle, or one whose decoder cannot sample."""
        self._coder = BundleCoder(bundle)

    def run(self, photos: Iterable[Pixels], states: Iterable[int], seed: int) -> list[Agreement]:
        """Agreement at every one of ``states`` (1 or coarser), averaged over photos."""
        shares: dict[int, list[tuple[float, float, float]]] = {state: [] for state in states}
        for number, pixels in enumerate(photos):
            whole = self._coder.bitstream(pixels)
            for state, found in shares.items():
                latents = self._coder.codec.decode(whole.truncate(state))
                found.append(self._one(latents, seed + number))
        return [
            Agreement(state, len(found), *(float(v) for v in np.mean(found, axis=0)))
            for state, found in shares.items()
            if found
        ]

    def _one(self, latents: FeatureLatents, seed: int) -> tuple[float, float, float]:
        coder = self._coder
        drawn = {
            name: grid[0].cpu().numpy().astype(np.int32)
            for name, grid in coder.reconstructor.sample_indices(latents, seed).items()
        }
        vivid = coder.reconstructor.reconstruct([latents], Rendering(VIVID, seed))[0]
        faithful = coder.reconstructor.reconstruct([latents])[0]
        again = [coder.codec.quantise(coder.features(picture)) for picture in (vivid, faithful)]
        first, second, third = (
            self._share(latents.indices, indices, latents.state) for indices in (drawn, *again)
        )
        return first, second, third

    def _share(self, received: Mapping[str, np.ndarray], finest: Indices, state: int) -> float:
        palette = self._coder.codec.palette
        merged, depths = palette.merge(finest, 0, state), palette.depths(state)
        equal = [
            (merged[name] == received[name]).ravel() for name, depth in depths.items() if depth
        ]
        return float(np.concatenate(equal).mean())

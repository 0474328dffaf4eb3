"""How much of what was sent a reconstruction still says when it is encoded again.

In latent space a vivid reconstruction agrees exactly: whatever the sampler draws merges to the
received indices. In pixels it need not: synthesis and extractor come between. Both are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from cloud_server.reconstruct import Reconstructor
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.codec import Latents, open_codec
from shared.codec.markov_palette import PALETTE_FILE
from shared.palette import MarkovPalette
from shared.palette.chain import Indices
from shared.preprocess import pad_to_multiple

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
        manifest = bundle.manifest
        self._bundle = bundle
        self._session = ort.InferenceSession(
            bundle.read("extractor.onnx"), providers=["CPUExecutionProvider"]
        )
        self._codec = open_codec(bundle)
        self._reconstructor = Reconstructor.from_bundle(bundle)
        self._palette = MarkovPalette.from_arrays(
            manifest.planes, manifest.states, bundle.read_arrays(PALETTE_FILE)
        )

    def run(self, photos: Iterable[Pixels], states: Iterable[int], seed: int) -> list[Agreement]:
        """Agreement at every one of ``states`` (1 or coarser), averaged over photos."""
        shares: dict[int, list[tuple[float, float, float]]] = {state: [] for state in states}
        for number, pixels in enumerate(photos):
            height, width = pixels.shape[:2]
            layers = tuple(self._codec.layers(self._features(pixels)))
            whole = Bitstream(self._bundle.short_id, width, height, 0, layers)
            for state, found in shares.items():
                latents = self._codec.decode(whole.truncate(state))
                found.append(self._one(latents, seed + number))
        return [
            Agreement(state, len(found), *(float(v) for v in np.mean(found, axis=0)))
            for state, found in shares.items()
            if found
        ]

    def _one(self, latents: Latents, seed: int) -> tuple[float, float, float]:
        drawn = {
            name: grid[0].cpu().numpy().astype(np.int32)
            for name, grid in self._reconstructor.sample_indices(latents, seed).items()
        }
        vivid = self._reconstructor.reconstruct([latents], vivid_seed=seed)[0]
        faithful = self._reconstructor.reconstruct([latents])[0]
        again = [self._palette.encode(self._features(picture)) for picture in (vivid, faithful)]
        first, second, third = (
            self._share(latents.indices, indices, latents.state) for indices in (drawn, *again)
        )
        return first, second, third

    def _share(self, received: Mapping[str, np.ndarray], finest: Indices, state: int) -> float:
        merged = self._palette.merge(finest, 0, state)
        depths = self._palette.depths(state)
        equal = [
            (merged[name] == received[name]).ravel() for name, depth in depths.items() if depth
        ]
        return float(np.concatenate(equal).mean())

    def _features(self, pixels: Pixels) -> dict[str, npt.NDArray[np.float32]]:
        padded = pad_to_multiple(pixels, self._bundle.manifest.input_multiple)
        names = [scale.name for scale in self._bundle.manifest.scales]
        return dict(zip(names, self._session.run(names, {"image": padded}), strict=True))

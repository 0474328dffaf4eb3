"""Measurements that only make sense of Markov palettes: consistency, and meaning.

Consistency is how much of what was sent a reconstruction still says when it is encoded again. In
latent space a vivid reconstruction agrees exactly: whatever the sampler draws merges to the
received indices. In pixels it need not: synthesis and extractor come between. Both are counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

from codec.base import Rendering
from codec.kit.losses.frozen import CLASSIFIER
from codec.kit.losses.textures import LABELS_FILE, PatchDescriptors, TextureModel, as_picture
from codec.latents import FeatureLatents
from codec.markov_palette import VIVID
from codec.markov_palette.coding import MarkovPaletteCodec
from codec.markov_palette.palette import Indices, MarkovPalette
from codec.markov_palette.reconstruct import PictureReconstructor
from codec.onnx import FeatureExtractor
from codec.settings import FeatureSettings
from shared.bundle import Bundle
from shared.weights import ModelStore

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


def consistency(
    bundle: Bundle, photos: Iterable[Pixels], *, cache: Path | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Agreement at every state but the finest, averaged over photos: rows of :class:`Agreement`.

    Encodes, reconstructs both ways, and encodes again. Raises BundleError for a damaged bundle, or
    one whose decoder cannot sample.
    """
    codec, reconstructor = MarkovPaletteCodec(bundle), PictureReconstructor.from_bundle(bundle)
    chain = codec.chains[0]
    extract = FeatureExtractor(bundle, precision="fp32")
    shares: dict[int, list[tuple[float, ...]]] = {}
    for number, pixels in enumerate(photos):
        height, width = pixels.shape[:2]
        whole = codec.encode(extract(pixels), width, height)
        for state in range(1, whole.layers[0].state + 1):
            latents = codec.decode(whole.truncate(state))
            drawn = {
                name: grid[0].cpu().numpy().astype(np.int32)
                for name, grid in reconstructor.sample_indices(latents, seed + number).items()
            }
            (vivid,) = reconstructor.reconstruct([latents], Rendering(VIVID, seed + number))
            (faithful,) = reconstructor.reconstruct([latents])
            again = [chain.quantise(extract(picture)) for picture in (vivid, faithful)]
            found = tuple(_share(chain.palette, latents, one) for one in (drawn, *again))
            shares.setdefault(state, []).append(found)
    return [
        asdict(Agreement(state, len(found), *(float(v) for v in np.mean(found, axis=0))))
        for state, found in shares.items()
    ]


def _share(palette: MarkovPalette, received: FeatureLatents, finest: Indices) -> float:
    """The share of positions and planes where ``finest``, merged, is what was received."""
    merged, depths = palette.merge(finest, 0, received.state), palette.depths(received.state)
    equal = [
        (merged[name] == received.indices[name]).ravel() for name, depth in depths.items() if depth
    ]
    return float(np.concatenate(equal).mean())


def meaning(
    bundle: Bundle, photos: Iterable[Pixels], *, cache: Path | None = None, seed: int = 0
) -> dict[str, list[float]]:
    """Whether palette merges follow meaning: what the nodes of trees tell about textures.

    See :func:`palette_meaning`; textures are those that the texture step found in ``cache``.
    Returns nothing where it has not run.
    """
    if cache is None or not (cache / LABELS_FILE).exists():
        return {}
    with np.load(cache / LABELS_FILE, allow_pickle=False) as file:
        model = TextureModel.from_arrays(file)
    describe = PatchDescriptors(load_file(ModelStore().path(CLASSIFIER.model)), model.grid)
    return palette_meaning(bundle, photos, model, describe)


Integers = npt.NDArray[np.int64]


def normalised_mutual_information(first: Integers, second: Integers) -> float:
    """``2 I(X; Y) / (H(X) + H(Y))`` of two labellings of the same things: 0..1.

    0 for labellings that tell nothing of each other, or when both are constant.
    """
    _, x = np.unique(first, return_inverse=True)
    _, y = np.unique(second, return_inverse=True)
    joint = np.zeros((int(x.max()) + 1, int(y.max()) + 1))
    np.add.at(joint, (x, y), 1)
    joint /= joint.sum()
    entropies = _entropy(joint.sum(0)) + _entropy(joint.sum(1))
    if entropies == 0:
        return 0.0
    return max(0.0, 2 * (entropies - _entropy(joint.ravel())) / entropies)


def palette_meaning(
    bundle: Bundle,
    photos: Iterable[Pixels],
    model: TextureModel,
    describe: PatchDescriptors,
    *,
    depths: int = 5,
) -> dict[str, list[float]]:
    """Normalised mutual information of nodes and textures, by plane, at depths 1, 2 ...

    photos: uint8 [H, W, 3], never trained on; every latent position takes the texture of the
    patch nearest to it. Raises ValueError when no photo is as large as a patch.
    """
    settings, chain = FeatureSettings.of(bundle), MarkovPaletteCodec(bundle).chains[0]
    extract = FeatureExtractor(bundle, precision="fp32")
    strides = {scale.name: scale.stride for scale in settings.scales}
    nodes: dict[str, list[Integers]] = {plane.name: [] for plane in settings.planes}
    textures: dict[str, list[Integers]] = {scale: [] for scale in strides}
    for pixels in photos:
        patches = model.grid.shape(*pixels.shape[:2])
        if patches == (0, 0):
            continue
        labels = model.labels(describe(as_picture(pixels))).numpy().reshape(patches)
        # Positions over the padding show nothing of the photo.
        shapes = {
            scale: [side // stride for side in pixels.shape[:2]]
            for scale, stride in strides.items()
        }
        for scale, stride in strides.items():
            rows, columns = ((np.arange(count) + 0.5) * stride for count in shapes[scale])
            around = model.grid.nearest(labels.astype(np.int16), rows, columns)
            textures[scale].append(around.astype(np.int64).ravel())
        leaves = chain.quantise(extract(pixels))
        for plane in settings.planes:
            height, width = shapes[plane.scale]
            nodes[plane.name].append(leaves[plane.name][:height, :width].astype(np.int64).ravel())
    if not any(textures.values()):
        raise ValueError(f"no photo is as large as a patch of {model.grid.window} pixels")
    figures = {}
    for plane in settings.planes:
        found = np.concatenate(nodes[plane.name])
        truth = np.concatenate(textures[plane.scale])
        figures[plane.name] = [
            normalised_mutual_information(found >> (plane.depth - depth), truth)
            for depth in range(1, min(depths, plane.depth) + 1)
        ]
    return figures


def _entropy(shares: npt.NDArray[np.float64]) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())

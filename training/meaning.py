"""Whether palette merges follow meaning: what the nodes of a tree tell about textures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from codec.kit.textures import PatchDescriptors, TextureModel, as_picture
from codec.registry import open_codec
from codec.settings import FeatureSettings
from training.evaluate.under_test import BundleCoder

Pixels = npt.NDArray[np.uint8]
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
    coder: BundleCoder,
    photos: Iterable[Pixels],
    model: TextureModel,
    describe: PatchDescriptors,
    *,
    depths: int = 5,
) -> Mapping[str, list[float]]:
    """Normalised mutual information of nodes and textures, by plane, at depths 1, 2 ...

    photos: uint8 [H, W, 3], never trained on; every latent position takes the texture of the
    patch nearest to it. Raises ValueError when no photo is as large as a patch.
    """
    manifest, codec = FeatureSettings.of(coder.bundle), open_codec(coder.bundle)
    strides = {scale.name: scale.stride for scale in manifest.scales}
    nodes: dict[str, list[Integers]] = {plane.name: [] for plane in manifest.planes}
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
        leaves = codec.decode(coder.bitstream(pixels)).indices
        for plane in manifest.planes:
            height, width = shapes[plane.scale]
            nodes[plane.name].append(leaves[plane.name][:height, :width].astype(np.int64).ravel())
    if not any(textures.values()):
        raise ValueError(f"no photo is as large as a patch of {model.grid.window} pixels")
    figures = {}
    for plane in manifest.planes:
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

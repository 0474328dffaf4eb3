"""What an eye and frozen networks see of two pictures, as one loss of several distances in turn."""

from __future__ import annotations

from collections.abc import Mapping

from safetensors.torch import load_file
from torch import Tensor, nn

from codec.kit.losses.frozen import (
    LOSSES,
    FeatureDistance,
    PerceptualDistance,
    load_losses,
    shifted,
    whose_turn,
)
from shared.weights import ModelStore


class Perception(nn.Module):
    """An LPIPS-like distance on one half of each batch, one frozen network's on the other.

    On the CPU the networks that judge cost more than the decoder that learns, so each sees a part
    of the batch, at a random place of its strides (see
    :func:`~codec.kit.losses.frozen.shifted`), and networks for tasks take turns, each with the
    weight of all its turns. Statistics of textures are of the features that the LPIPS-like distance
    is of, and cost no more.
    """

    def __init__(
        self,
        perceptual: PerceptualDistance,
        features: Mapping[str, nn.Module],
        weights: Mapping[str, float],
    ) -> None:
        """features: of two batches, a distance [n], by name. weights: of
        ``perceptual``, ``textures`` and of each of the others."""
        super().__init__()
        self.perceptual = perceptual
        self.features = nn.ModuleDict(dict(sorted(features.items())))
        self.weights = dict(weights)

    @classmethod
    def open(cls, weights: Mapping[str, float], store: ModelStore | None = None) -> Perception:
        """weights: ``perceptual``, ``textures`` and 0 or more for each network of
        :data:`codec.kit.losses.frozen.LOSSES`. Raises ModelError ``weights_missing``."""
        store = store or ModelStore()
        return cls(perceptual_distance(store), feature_losses(weights, store), weights)

    def forward(self, made: Tensor, picture: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        """Two batches [n, 3, h, w] in -0.5..0.5, n at least 2 -> the loss, and each distance by
        name. step: says whose turn it is."""
        half = len(made) // 2
        seen = shifted(made[:half], picture[:half])
        distance, textures = (part.mean() for part in self.perceptual.with_textures(*seen))
        loss = self.weights["perceptual"] * distance + self.weights["textures"] * textures
        figures = {"lpips": float(distance.detach()), "textures": float(textures.detach())}
        names = list(self.features)
        if names:
            name = whose_turn(names, step)
            distance = self.features[name](*shifted(made[half:], picture[half:])).mean()
            loss = loss + len(names) * self.weights[name] * distance
            figures[name] = float(distance.detach())
        return loss, figures


def feature_losses(weights: Mapping[str, float], store: ModelStore) -> dict[str, FeatureDistance]:
    """The distances in features of networks that weigh anything, by name. Raises ModelError
    ``weights_missing``."""
    wanted = [name for name in LOSSES if weights.get(name, 0) > 0]
    return load_losses({name: store.path(LOSSES[name].model) for name in wanted})


def perceptual_distance(store: ModelStore) -> PerceptualDistance:
    """The LPIPS-like distance of SqueezeNet. Raises ModelError ``weights_missing``."""
    return PerceptualDistance(
        load_file(store.path("squeezenet-1.1")), load_file(store.path("lpips-squeeze")), even=True
    )

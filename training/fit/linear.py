"""Where training starts: the best linear codec, as principal components and least squares.

A network that has to learn an orthogonal transform through rectifiers takes tens of thousands
of steps to come near what principal component analysis gives at once. So the linear paths of
extractor and decoder start there, and the network learns what is not linear.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.markov_palette.networks import Decoder
from training.fit.quantise import TrainingPalette
from training.networks.extractor import (
    LATENT_BOUND,
    LATENT_GAIN,
    SEMANTIC_STRIDE,
    TEXTURE_STRIDE,
    Extractor,
    bounded,
)

LARGEST_DEVIATION = 0.5
"""Standard deviation of the largest component's latent; the tanh bends little below it."""
_RIDGE = 1e-4


@torch.no_grad()
def initialise_linear(
    extractor: Extractor, decoder: Decoder, palette: TrainingPalette, pictures: Tensor
) -> None:
    """Set the linear parts of both networks, and the palettes, from training pictures.

    pictures: float32 [n, 3, H, W] in -0.5..0.5. Everything after the semantic quantiser is
    fitted on its colours, so that texture carries the quantiser's errors too.
    """
    linear = decoder.synthesis.linear
    counts = [sum(plane.scale == scale for plane in palette.planes) for scale in (0, 1)]

    _project(extractor.semantic_linear, pictures, SEMANTIC_STRIDE, counts[0], pictures)
    semantic = bounded(extractor.semantic_linear(pictures))
    semantic = palette.refit(0, semantic)
    regress(linear.semantic, semantic, F.pixel_unshuffle(pictures, SEMANTIC_STRIDE))
    rest = pictures - F.pixel_shuffle(linear.semantic(semantic), SEMANTIC_STRIDE)

    _project(extractor.texture_linear, rest, TEXTURE_STRIDE, counts[1], pictures)
    texture = bounded(extractor.texture_linear(pictures))
    predict(extractor, decoder, semantic, texture)
    predicted = extractor.prediction(semantic)
    texture = predicted + palette.refit(1, texture - predicted)
    regress(linear.texture, texture, F.pixel_unshuffle(rest, TEXTURE_STRIDE))


@torch.no_grad()
def predict(extractor: Extractor, decoder: Decoder, semantic: Tensor, texture: Tensor) -> None:
    """Fit texture's prediction from semantic colours, in the extractor and in the decoder."""
    regress(extractor.prediction.weights, semantic, F.pixel_unshuffle(texture, 2))
    for part in (decoder.restorer, decoder.synthesis):
        part.prediction.load_state_dict(extractor.prediction.state_dict())


def _project(
    layer: nn.Conv2d, pictures: Tensor, stride: int, groups: int, applied_to: Tensor
) -> None:
    """Principal components of the blocks of ``pictures``, all scaled alike: a squared error in
    them is a squared error in pixels, which is what the palettes minimise."""
    channels = layer.out_channels
    flat = F.pixel_unshuffle(pictures, stride).permute(0, 2, 3, 1).reshape(-1, 3 * stride**2)
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    order = _dealt(channels, groups, vectors.device)
    basis = vectors.flip(1)[:, :channels]
    deviation = values.flip(0)[:channels].clamp_min(1e-12).sqrt()
    gain = LARGEST_DEVIATION / deviation[0]
    weight = (basis * gain).T[order] / (LATENT_BOUND * LATENT_GAIN)
    edge = stride // 2
    layer.weight.zero_()
    layer.weight[:, :, edge : edge + stride, edge : edge + stride] = weight.view(
        channels, 3, stride, stride
    )
    assert layer.bias is not None
    layer.bias.zero_()
    layer.bias.sub_(layer(applied_to).mean((0, 2, 3)))


def _dealt(channels: int, groups: int, device: torch.device) -> Tensor:
    """Component numbers in channel order, dealt to and fro: [0, 3, 4, 7 | 1, 2, 5, 6]."""
    rows = torch.arange(channels, device=device).split(groups)
    turned = [row if number % 2 == 0 else row.flip(0) for number, row in enumerate(rows)]
    dealt = [[int(row[group]) for row in turned if group < len(row)] for group in range(groups)]
    return torch.tensor([number for hand in dealt for number in hand], device=device)


def regress(layer: nn.Conv2d, source: Tensor, target: Tensor) -> None:
    """Ridge regression of target [n, C', h, w] on 3x3 neighbourhoods of source [n, C, h, w]."""
    rows = F.unfold(source, 3, padding=1).transpose(1, 2).reshape(-1, 9 * source.shape[1])
    rows = torch.cat((rows, rows.new_ones(len(rows), 1)), 1)
    wanted = target.permute(0, 2, 3, 1).reshape(len(rows), -1)
    gram = rows.T @ rows / len(rows)
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, rows.T @ wanted / len(rows))
    layer.weight.copy_(solution[:-1].T.reshape(layer.weight.shape))
    assert layer.bias is not None
    layer.bias.copy_(solution[-1])

"""Where training starts: the best linear codec, as principal components and least squares.

A network that has to learn an orthogonal transform through rectifiers takes tens of thousands
of steps to come near what principal component analysis gives at once. So the linear paths of
extractor and decoder start there, and the network learns what is not linear.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from codec.kit import checkpoint
from codec.markov_palette.networks import Decoder
from codec.markov_palette.train.networks import (
    LATENT_BOUND,
    LATENT_GAIN,
    SEMANTIC_STRIDE,
    TEXTURE_STRIDE,
    Extractor,
    TrainingPalette,
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
    rows = torch.split(torch.arange(channels, device=device), groups)
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


_PICTURES_AT_ONCE = 16


@torch.no_grad()
def warm_start(
    extractor: Extractor,
    decoder: Decoder,
    palette: TrainingPalette,
    pictures: Tensor,
    path: Path,
) -> None:
    """Take the averaged weights in the checkpoint ``path``; fit the rest to ``pictures``.

    pictures: float32 [n, 3, H, W] in -0.5..0.5. Raises OSError when there is no such file.
    """
    _silence_new_parts(extractor, decoder)
    taken = checkpoint.averaged(path, "extractor")
    if "semantic_linear.weight" not in taken:  # heads of an extractor without linear paths
        for head in ("semantic", "texture"):
            for key in (f"{head}.weight", f"{head}.bias"):
                taken[key] = taken[key] / LATENT_GAIN
    _take(extractor, taken)
    old_depths = load_file(path)["palette/depths"]
    rows = _nearest_states(palette.depths, old_depths.to(palette.depths.device), palette)
    taken = checkpoint.averaged(path, "decoder")
    for key in [key for key in taken if key.endswith("embed.table.weight")]:
        taken[key] = taken[key][rows.cpu()]
    _take(decoder, taken)

    parts = [extractor(part) for part in torch.split(pictures, _PICTURES_AT_ONCE)]
    semantic = palette.refit(0, torch.cat([part[0] for part in parts]))
    texture = torch.cat([part[1] for part in parts])
    predict(extractor, decoder, semantic, texture)
    predicted = extractor.prediction(semantic)
    residual = palette.refit(1, texture - predicted)
    left = pictures - _decode(decoder, semantic, residual)
    linear = decoder.synthesis.linear
    regress(linear.semantic, semantic, F.pixel_unshuffle(left, 16))
    left = left - F.pixel_shuffle(linear.semantic(semantic), 16)
    regress(linear.texture, residual + predicted, F.pixel_unshuffle(left, 8))


def _silence_new_parts(extractor: Extractor, decoder: Decoder) -> None:
    linear = decoder.synthesis.linear
    quiet: list[nn.Conv2d] = [linear.semantic, linear.texture]
    quiet += [extractor.semantic_linear, extractor.texture_linear]
    quiet += [block.second for block in extractor.texture_blocks]  # type: ignore[misc]
    for layer in quiet:
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()


def _take(module: nn.Module, values: dict[str, Tensor]) -> None:
    for key, value in module.state_dict().items():
        if key in values and values[key].shape == value.shape:
            value.copy_(values[key])


def _nearest_states(wanted: Tensor, there: Tensor, palette: TrainingPalette) -> Tensor:
    """For every state the other run's: in order if there are as many, else by rate: [states]."""
    if len(wanted) == len(there):
        return torch.arange(len(wanted))
    area = torch.tensor([4.0**plane.scale for plane in palette.planes], device=there.device)
    if there.shape[1] != len(area):
        return torch.linspace(0, len(there) - 1, len(wanted)).round().long()
    rates, offers = (wanted * area).sum(1), (there * area).sum(1)
    return (rates[:, None] - offers).abs().argmin(1)


def _decode(decoder: Decoder, semantic: Tensor, residual: Tensor) -> Tensor:
    decoded = []
    for start in range(0, len(semantic), _PICTURES_AT_ONCE):
        part = slice(start, start + _PICTURES_AT_ONCE)
        state = torch.zeros(len(semantic[part]), dtype=torch.long, device=semantic.device)
        decoded.append(decoder(semantic[part], residual[part], state)[0])
    return torch.cat(decoded)

"""Starting from another run's weights: what fits is taken, what is new starts without effect.

Another palette layout, more states or linear paths that the other run did not have are no
obstacle: trees, prediction and linear parts are fitted to what the taken weights do.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from codec.markov_palette.networks import Decoder
from training.fit import checkpoint
from training.fit.linear import predict, regress
from training.fit.quantise import TrainingPalette
from training.networks.extractor import LATENT_GAIN, Extractor

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

    parts = [extractor(part) for part in pictures.split(_PICTURES_AT_ONCE)]
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

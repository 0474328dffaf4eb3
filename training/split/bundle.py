"""The bundle of a cut network: manifest, both networks, palettes, contexts, notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.bitstream.container import HEADER_BYTES, layer_bytes
from shared.bundle import (
    Bundle,
    ChainSpec,
    Manifest,
    ResizeSpec,
    ScaleSpec,
    TailClass,
    TailModel,
    TailSpec,
)
from shared.entropy import BitEncoder, ContextModel
from shared.palette import MarkovPalette
from shared.palette.chain import Indices
from training.split.model import CutModel
from training.split.network import SplitNetwork
from training.split.onnx_files import extractor_onnx, tail_onnx
from training.split.recipe import SplitRecipe

TYPICAL_PIXELS = 640 * 480
"""Of the photo that the states' typical bits per pixel are of: grids do not depend on it."""


@dataclass(frozen=True)
class BundleParts:
    """What a bundle is made of; palettes with their states' typical rates."""

    recipe: SplitRecipe
    network: SplitNetwork
    model: CutModel
    palettes: Sequence[MarkovPalette]


def manifest_of(parts: BundleParts) -> Manifest:
    """The manifest; files are filled in when the bundle is written."""
    info, recipe = parts.network.info, parts.recipe
    classes = tuple(TailClass(id=number, name=name) for number, name in info.classes)
    model = TailModel(name=info.name, version=info.version, licence=info.licence)
    return Manifest(
        name=recipe.name,
        version=recipe.version,
        description=recipe.description,
        licence=info.licence,
        codec="markov-palette",
        scales=tuple(
            ScaleSpec(name=s.name, stride=s.stride, channels=parts.model.settings.latent)
            for s in info.scales
        ),
        planes=tuple(plane for palette in parts.palettes for plane in palette.planes),
        states=tuple(state for palette in parts.palettes for state in palette.states),
        chains=tuple(
            ChainSpec(planes=len(palette.planes), states=len(palette.states))
            for palette in parts.palettes
        ),
        input_multiple=max(scale.stride for scale in info.scales),
        halo_positions=0,
        resize=ResizeSpec(width=info.width, height=info.height, fit=info.fit),
        tails=(TailSpec(task=info.task, output=info.output, classes=classes, model=model),),
        files={},
    )


def write_parts(
    parts: BundleParts, palette: bytes, contexts: bytes, folder: Path, card: str | None
) -> Bundle:
    """Write the bundle; palette, contexts: the .npz files' bytes."""
    files = {
        "extractor.onnx": extractor_onnx(parts.model, parts.network),
        "tail.onnx": tail_onnx(parts.model, parts.network),
        "palette.npz": palette,
        "contexts.npz": contexts,
        "NOTICE.md": notice(parts.network).encode(),
    }
    if card is not None:
        files["MODEL_CARD.md"] = card.encode()
    return Bundle.create(folder, manifest_of(parts), files)


def notice(network: SplitNetwork) -> str:
    """Whose weights these were, and that they were changed."""
    info = network.info
    lines = [
        f"# {info.name}",
        "",
        f"`extractor.onnx` and `tail.onnx` are made from {info.name} {info.version}, under "
        f"{info.licence}. They were changed: the network is cut in two, a bottleneck was put "
        "between the halves, and the weights of the second half were trained further.",
    ]
    if info.notice:
        lines += ["", info.notice.strip()]
    return "\n".join(lines) + "\n"


def typical_bytes(
    palette: MarkovPalette, contexts: ContextModel, photos: Sequence[Indices]
) -> list[float]:
    """Median bytes of whole files at every state of the chain, finest first."""
    rows = []
    for indices in photos:
        opened = contexts.open({name: grid.shape for name, grid in indices.items()})
        total, sizes = HEADER_BYTES, []
        for state in range(palette.coarsest_state, palette.finest_state - 1, -1):
            encoder = BitEncoder()
            for step in palette.passes(state):
                odds = opened.probabilities(*step)
                flat = indices[step.plane].reshape(-1)[opened.positions(step.plane, step.side)]
                below = palette.trees[step.plane].depth - step.depth - 1
                bits = ((flat >> below) & 1).astype(np.uint8)
                opened.advance(*step, bits)
                encoder.encode(bits, odds)
            total += layer_bytes(len(encoder.payload()))
            sizes.append(total)
        rows.append(sizes[::-1])
    return [float(value) for value in np.median(np.array(rows), axis=0)]

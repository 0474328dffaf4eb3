"""The bundle of a cut network: manifest, both networks, palettes, contexts, notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec.coder import SymbolEncoder
from codec.lattice_palette.contexts import LatticeContexts
from codec.lattice_palette.palette import LatticePalette, Values
from codec.settings import ChainSpec, ResizeSpec, ScaleSpec, TailClass, TailModel, TailSpec
from shared.bitstream.container import HEADER_BYTES, layer_bytes
from shared.bundle import Bundle, Manifest
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
    palettes: Sequence[LatticePalette]


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
        codec="lattice-palette",
        scales=tuple(
            ScaleSpec(name=s.name, stride=s.stride, channels=parts.model.settings.latent)
            for s in info.scales
        ),
        planes=tuple(plane for palette in parts.palettes for plane in palette.specs),
        states=tuple(state for palette in parts.palettes for state in palette.states),
        chains=tuple(
            ChainSpec(planes=len(palette.specs), states=len(palette.states))
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
    palette: LatticePalette, contexts: LatticeContexts, values: Values
) -> list[float]:
    """Median bytes of whole files at every state of the chain, finest first.

    values: int32 [photos, C, h, w] a plane.
    """
    rows = []
    for photo in range(len(next(iter(values.values())))):
        here = {name: part[photo] for name, part in values.items()}
        opened = contexts.open({name: part.shape[1:] for name, part in here.items()})
        total, sizes = HEADER_BYTES, []
        for state in range(palette.coarsest_state, palette.finest_state - 1, -1):
            encoder = SymbolEncoder(contexts.tables)
            for step in palette.passes(state):
                tables = opened.tables(step)
                symbols = opened.symbols(step, opened.of_pass(step, here[step.plane]))
                opened.advance(step, symbols)
                encoder.encode(symbols, tables)
            total += layer_bytes(len(encoder.payload()))
            sizes.append(total)
        rows.append(sizes[::-1])
    return [float(value) for value in np.median(np.array(rows), axis=0)]

"""The bundle of a cut network: manifest, both networks, palettes, contexts, notices."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from codec.entropy import symbol_encoder
from codec.kit.onnx_tools import OPSET
from codec.lattice_palette.contexts import LatticeContexts
from codec.lattice_palette.nested.palette import NestedPalette
from codec.lattice_palette.palette import LatticePalette, Values
from codec.lattice_palette.train.bottleneck import CutModel
from codec.lattice_palette.train.networks.base import SplitNetwork
from codec.lattice_palette.train.recipe import SplitRecipe
from codec.settings import (
    ChainSpec,
    FeatureSettings,
    ResizeSpec,
    ScaleSpec,
    TailClass,
    TailModel,
    TailSpec,
    create_bundle,
)
from shared.bitstream import FORMAT_VERSION
from shared.bitstream.container import header_bytes, layer_bytes
from shared.bundle import Bundle, Manifest

TYPICAL_SIDES = (640, 480)
TYPICAL_PIXELS = TYPICAL_SIDES[0] * TYPICAL_SIDES[1]
"""Of the photo that the states' typical bits per pixel are of: grids do not depend on it."""


@dataclass(frozen=True)
class BundleParts:
    """What a bundle is made of; palettes with their states' typical rates."""

    recipe: SplitRecipe
    network: SplitNetwork
    model: CutModel
    palettes: Sequence[LatticePalette | NestedPalette]


def manifest_of(parts: BundleParts) -> Manifest:
    """The manifest; files are filled in when the bundle is written."""
    info, recipe = parts.network.info, parts.recipe
    classes = tuple(TailClass(id=number, name=name) for number, name in info.classes)
    model = TailModel(name=info.name, version=info.version, licence=info.licence)
    settings = FeatureSettings(
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
    )
    return settings.manifest(
        name=recipe.name,
        version=recipe.version,
        description=recipe.description,
        licence=info.licence,
        codec="lattice-palette",
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
    return create_bundle(folder, manifest_of(parts), files)


def notice(network: SplitNetwork) -> str:
    """Whose weights these were, and that they were changed."""
    info = network.info
    lines = [
        f"# {info.name}",
        "",
        f"`extractor.onnx` and `tail.onnx` are made from {info.name} {info.version}, under "
        f"{info.licence}. They were changed: the network is cut in two, a bottleneck was put "
        "between the halves, and the weights of the second half are kept as float16, trained "
        "further where the model card says so.",
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
        total = 0
        sizes: list[int] = []
        for state in range(palette.coarsest_state, palette.finest_state - 1, -1):
            encoder = symbol_encoder(FORMAT_VERSION, contexts.tables)
            for step in palette.passes(state):
                tables = opened.tables(step)
                symbols = opened.symbols(step, opened.of_pass(step, here[step.plane]))
                opened.advance(step, symbols)
                encoder.encode(symbols, tables)
            total += layer_bytes(len(encoder.payload()), FORMAT_VERSION)
            header = header_bytes(FORMAT_VERSION, *TYPICAL_SIDES, state, len(sizes) + 1)
            sizes.append(header + total)
        rows.append(sizes[::-1])
    return [float(value) for value in np.median(np.array(rows), axis=0)]


_IR_VERSION = 8
_LEAST_HALVED = 64
"""Tensors of fewer values stay float32."""


def extractor_onnx(model: CutModel, network: SplitNetwork) -> bytes:
    """Input ``image`` uint8 [height, width, 3]; an output float32 [latent, h, w] a scale."""
    info = network.info
    image = torch.zeros(info.height, info.width, 3, dtype=torch.uint8)
    names = [scale.name for scale in info.scales]
    return _written(_Edge(model, network, names), (image,), ["image"], names, {})


def tail_onnx(model: CutModel, network: SplitNetwork, *, halves: bool = True) -> bytes:
    """Inputs float32 [N, latent, h, w] a scale and ``state`` int64 [N]; outputs of the kind.

    halves: weights are stored as float16, and cast when the file is loaded.
    """
    info = network.info
    names = [scale.name for scale in info.scales]
    grids = [
        torch.zeros(2, model.settings.latent, info.height // s.stride, info.width // s.stride)
        for s in info.scales
    ]
    outputs = ["boxes", "scores"] if info.output == "boxes" else ["scores"]
    inputs = [*names, "state"]
    data = _written(
        _Cloud(model, network, names),
        (*grids, torch.zeros(2, dtype=torch.long)),
        inputs,
        outputs,
        {name: {0: "pictures"} for name in [*inputs, *outputs]},
    )
    return _halved(data) if halves else data


class _Edge(nn.Module):
    def __init__(self, model: CutModel, network: SplitNetwork, names: list[str]) -> None:
        super().__init__()
        self.model, self.network, self.names = model, network, names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        picture = image.permute(2, 0, 1)[None].float()
        latents = self.model.latents(self.network.head(picture))
        return tuple(latents[name][0] for name in self.names)


class _Cloud(nn.Module):
    def __init__(self, model: CutModel, network: SplitNetwork, names: list[str]) -> None:
        super().__init__()
        self.model, self.network, self.names = model, network, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        colours = dict(zip(self.names, inputs[:-1], strict=True))
        features = self.model.features(colours, inputs[-1])
        return self.network.finish(self.network.tail(features))


def _written(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    free: Mapping[str, Mapping[int, str]],
) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The tracing exporter needs no further package; torch calls it old.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            example,
            buffer,  # type: ignore[arg-type]  # torch takes files, its annotation paths alone
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: dict(axes) for name, axes in free.items()},
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    model.producer_name, model.producer_version = "featherwire", ""
    model.ir_version = _IR_VERSION
    for node in model.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _halved(data: bytes) -> bytes:
    """Weights as float16 with a Cast in front of what uses them."""
    model = onnx.load_model_from_string(data)
    graph = model.graph
    kept, casts = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _LEAST_HALVED:
            kept.append(tensor)
            continue
        with np.errstate(over="ignore"):
            small = values.astype(np.float16)
        if not np.isfinite(small).all():
            kept.append(tensor)
            continue
        name = f"{tensor.name}.half"
        kept.append(numpy_helper.from_array(small, name))
        casts.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))

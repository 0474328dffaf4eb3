"""Detectors of the YOLO family, read by Ultralytics (AGPL-3.0, an extra of its own), cut in two.

A weights file (``yolo11n.pt``), or a description (``yolo11n.yaml``) with random weights, for
tests. The cut is found by walking the layers: see :mod:`codec.lattice_palette.train.networks.cuts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codec.lattice_palette.train.networks.base import CutScale, Features, Outputs, SplitInfo
from codec.lattice_palette.train.networks.cuts import (
    Cut,
    LayerFacts,
    cheapest_cut,
    cut_after,
    find_cuts,
)
from codec.libraries import import_yolo, load_yolo
from shared.errors import RecipeError
from shared.weights import ModelStore
from shared.weights.ultralytics_assets import LICENCE, get_yolo

SUFFIXES = (".pt", ".yaml")
DEFAULT_SIDE = 640
DEFAULT_EDGE_SHARE = 1 / 3


class SplitYolo(nn.Module):
    """side x side, letterboxed -> the grids at the cut -> boxes at every anchor."""

    anchors: Tensor
    strides: Tensor

    def __init__(
        self,
        store: ModelStore,
        model: str,
        *,
        side: int = DEFAULT_SIDE,
        at: int | None = None,
        most_on_edge: float = DEFAULT_EDGE_SHARE,
    ) -> None:
        """at: the layer behind which to cut; None takes the cheapest cut that leaves the edge at
        most ``most_on_edge`` of the multiply-adds.

        Raises ModelError as ``featherwire-cloud analyze --detector`` does; RecipeError
        ``unsupported_network``, ``bad_size`` or ``no_cut``.
        """
        super().__init__()
        network, names, version = _opened(store, model)
        self.layers: nn.ModuleList = nn.ModuleList(network.model)
        detect: Any = self.layers[-1]
        if type(detect).__name__ not in {"Detect", "v10Detect"}:
            raise RecipeError(
                "unsupported_network", f"{model} ends with {type(detect).__name__}, not Detect"
            )
        strides = [int(stride) for stride in detect.stride]
        if side % max(strides):
            raise RecipeError("bad_size", f"a side of {side} is no multiple of {max(strides)}")
        self.side = side
        self.requires_grad_(False)
        self.eval()
        facts = layer_facts(self.layers, side)
        self.cuts = find_cuts(facts)
        self.cut = cheapest_cut(self.cuts, most_on_edge) if at is None else cut_after(self.cuts, at)
        self.info = SplitInfo(
            name=Path(model).stem,
            version=f"ultralytics {version}",
            licence=LICENCE,
            task="detection",
            output="boxes",
            width=side,
            height=side,
            fit="letterbox",
            scales=_scales(self.cut, facts, side),
            classes=tuple(sorted(names.items())),
        )
        places = [_centres(side // stride) for stride in strides]
        counts = [torch.full((len(p),), float(s)) for p, s in zip(places, strides, strict=True)]
        self.register_buffer("anchors", torch.cat(places))
        self.register_buffer("strides", torch.cat(counts))

    def head(self, picture: Tensor) -> Features:
        """See :class:`codec.lattice_palette.train.networks.base.SplitNetwork`."""
        seen = {-1: picture / 255}
        self._through(0, self.cut.after + 1, seen)
        return {_name(layer): seen[layer] for layer in self.cut.crossing}

    def tail(self, features: Mapping[str, Tensor]) -> Outputs:
        """``boxes`` are distances to the left, upper, right and lower side, in strides."""
        seen = {layer: features[_name(layer)] for layer in self.cut.crossing}
        last = len(self.layers) - 1
        self._through(self.cut.after + 1, last, seen)
        detect: Any = self.layers[last]
        single = bool(detect.end2end)
        box_heads = detect.one2one_cv2 if single else detect.cv2
        class_heads = detect.one2one_cv3 if single else detect.cv3
        grids = [seen[layer] for layer in _reads(detect, last)]
        codes = [head(grid).flatten(2) for head, grid in zip(box_heads, grids, strict=True)]
        logits = [head(grid).flatten(2) for head, grid in zip(class_heads, grids, strict=True)]
        boxes = detect.dfl(torch.cat(codes, 2))
        return {"boxes": boxes.transpose(1, 2), "logits": torch.cat(logits, 2).transpose(1, 2)}

    def finish(self, outputs: Outputs) -> tuple[Tensor, ...]:
        """Corners as shares of the letterboxed input [n, B, 4], scores [n, B, K]."""
        before, behind = torch.split(outputs["boxes"], 2, 2)
        scale = self.strides[:, None] / self.side
        corners = [(self.anchors - before) * scale, (self.anchors + behind) * scale]
        return torch.cat(corners, 2), outputs["logits"].sigmoid()

    def tail_parameters(self) -> Sequence[Tensor]:
        """Those of the layers behind the cut; not the fixed weights that average box codes."""
        detect: Any = self.layers[-1]
        fixed = {id(p) for p in detect.dfl.parameters()}
        behind = self.layers[self.cut.after + 1 :]
        return [p for layer in behind for p in layer.parameters() if id(p) not in fixed]

    def _through(self, start: int, stop: int, seen: dict[int, Tensor]) -> None:
        for number in range(start, stop):
            layer: Any = self.layers[number]
            inputs = [seen[source] for source in _reads(layer, number)]
            seen[number] = layer(inputs[0] if isinstance(layer.f, int) else inputs)


def layer_facts(layers: nn.ModuleList, side: int) -> list[LayerFacts]:
    """What :func:`find_cuts` wants to know, measured on one empty picture.

    Multiply-adds are those of convolutions and linear layers; attention's products are left out.
    """
    counted = [0] * len(layers)
    shapes: list[tuple[int, int, int] | None] = [None] * len(layers)
    hooks = []

    def watch(number: int, part: nn.Module) -> None:
        def count(module: Any, _: object, output: Tensor) -> None:
            counted[number] += output[0].numel() * module.weight[0].numel()

        hooks.append(part.register_forward_hook(count))

    for number, layer in enumerate(layers):
        for part in layer.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                watch(number, part)
    seen: dict[int, Any] = {-1: torch.zeros(1, 3, side, side)}
    reads = [_reads(layer, number) for number, layer in enumerate(layers)]
    with torch.no_grad():
        for number, layer in enumerate(layers):
            inputs = [seen[source] for source in reads[number]]
            seen[number] = layer(inputs[0] if isinstance(layer.f, int) else inputs)
            found = seen[number]
            if isinstance(found, Tensor) and found.ndim == 4:
                shapes[number] = (found.shape[1], found.shape[2], found.shape[3])
    for hook in hooks:
        hook.remove()
    return [LayerFacts(*values) for values in zip(reads, shapes, counted, strict=True)]


def _opened(store: ModelStore, model: str) -> tuple[Any, dict[int, str], str]:
    """The network with its batch norms folded in, its classes, and the library's version."""
    yolo, version = import_yolo()
    if model.endswith(".yaml"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            opened = load_yolo(yolo, Path(model), "detect")
    else:
        opened = load_yolo(yolo, get_yolo(store, model), "detect")
    names = {int(number): str(name) for number, name in opened.names.items()}
    network = opened.model.float().eval()
    return network.fuse(verbose=False), names, version


def _reads(layer: Any, number: int) -> tuple[int, ...]:
    """The layers that it reads: Ultralytics gives -1 for the one before, else their numbers."""
    sources = [layer.f] if isinstance(layer.f, int) else layer.f
    return tuple(number + source if source < 0 else source for source in sources)


def _scales(cut: Cut, facts: Sequence[LayerFacts], side: int) -> tuple[CutScale, ...]:
    scales = []
    for layer in cut.crossing:
        channels, height, width = facts[layer].shape or (0, 0, 0)
        if not height or height != width or side % height:
            raise RecipeError("no_cut", f"layer {layer} gives {channels}x{height}x{width}")
        scales.append(CutScale(_name(layer), channels, side // height))
    return tuple(scales)


def _name(layer: int) -> str:
    return f"layer_{layer}"


def _centres(cells: int) -> Tensor:
    """(x, y) of every cell's centre, in cells, row by row: float32 [cells * cells, 2]."""
    place = torch.arange(cells) + 0.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)

"""SSD-MobileNetV3 for COCO, whole, in torch, cut at its stride 16 bottleneck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codec.kit.losses.frozen import DETECTOR, Backbone, InvertedResidual, convolution
from codec.lattice_palette.train.networks.base import CutScale, Features, Outputs, SplitInfo
from shared.weights import ModelStore
from shared.weights.containers import float_constants
from shared.weights.convert import ssd_mobilenetv3_backbone

WEIGHTS = "ssd-mobilenetv3-coco"
SCALE = "bottleneck"
_CUT = 6
"""The block whose projection is the cut: 80 channels at stride 16."""
_BLOCKS = 15
_WIDE = 12
"""The block whose widened features the first boxes see."""
_EXTRA = ((2, 256, 512), (3, 128, 256), (4, 128, 256), (5, 64, 128))
"""Number, narrow and wide channels of the stages behind the backbone."""
_MAPS = 2 + len(_EXTRA)
_CLASSES = 91
_NEVER_ANNOTATED = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
"""Ids of COCO's list that its annotations do not use."""
_EPSILON = 1e-3
"""Batch norm's."""
_ROOT = "FeatureExtractor/MobilenetV3/layer_17"


class SplitSsd(nn.Module):
    """320x320 -> 80x20x20 -> 2034 boxes; equal to OpenCV's run of the frozen graph."""

    anchors: Tensor
    real: Tensor

    def __init__(self, store: ModelStore) -> None:
        """Raises ModelError when the weights are missing or damaged."""
        super().__init__()
        entry = store.entry(WEIGHTS)
        names = store.path(f"{WEIGHTS}-labels").read_text().splitlines()
        named = ((number, name.strip()) for number, name in enumerate(names, 1))
        classes = tuple((n, name) for n, name in named if name and n not in _NEVER_ANNOTATED)
        self.info = SplitInfo(
            name=WEIGHTS,
            version=entry.version,
            licence=entry.licence,
            task="detection",
            output="boxes",
            width=320,
            height=320,
            fit="stretch",
            scales=(CutScale(SCALE, 80, 16),),
            classes=classes,
            notice=entry.notice,
        )
        tensors = _tensors(store.path(WEIGHTS).read_bytes())
        self.backbone = Backbone(tensors, DETECTOR.shape)
        self.extra = nn.ModuleList(
            nn.ModuleList(
                [
                    convolution(tensors, f"extra.{number}.narrow"),
                    convolution(tensors, f"extra.{number}.depthwise", stride=2),
                    convolution(tensors, f"extra.{number}.widen"),
                ]
            )
            for number in range(len(_EXTRA))
        )
        self.heads = nn.ModuleList(
            nn.ModuleList(
                convolution(tensors, f"heads.{number}.{kind}.{part}")
                for kind in ("box", "classes")
                for part in ("depthwise", "predict")
            )
            for number in range(_MAPS)
        )
        self.register_buffer("anchors", tensors["anchors"])
        self.register_buffer("real", torch.tensor([number for number, _ in classes]))
        self.requires_grad_(False)
        self.eval()

    def head(self, picture: Tensor) -> Features:
        """See :class:`codec.lattice_palette.train.networks.base.SplitNetwork`."""
        return {SCALE: self.backbone((picture - 127.5) / 255, (_CUT,))[0]}

    def tail(self, features: Mapping[str, Tensor]) -> Outputs:
        """``boxes`` are offsets to the anchors: centre (y, x) in tenths, log size in fifths."""
        x, maps = features[SCALE], []
        for number, block in enumerate(self.backbone.blocks):
            if number == _WIDE:
                assert isinstance(block, InvertedResidual)
                assert block.expand is not None
                maps.append(block.activation(block.expand(x)))
            if number > _CUT:
                x = block(x)
        maps.append(self.backbone.head(x))
        for stage in self.extra:
            x = maps[-1]
            for layer in cast(nn.ModuleList, stage):
                x = functional.relu6(layer(x))
            maps.append(x)
        boxes, logits = [], []
        for seen, head in zip(maps, self.heads, strict=True):
            box, box_out, label, label_out = cast(nn.ModuleList, head)
            boxes.append(_rows(box_out(functional.relu6(box(seen))), 4))
            logits.append(_rows(label_out(functional.relu6(label(seen))), _CLASSES))
        return {"boxes": torch.cat(boxes, 1), "logits": torch.cat(logits, 1)[..., self.real]}

    def finish(self, outputs: Outputs) -> tuple[Tensor, ...]:
        """Corners as shares of the picture [n, 2034, 4], scores [n, 2034, 80]."""
        offsets = outputs["boxes"]
        centre_y, centre_x, height, width = self.anchors.unbind(1)
        y = offsets[..., 0] / 10 * height + centre_y
        x = offsets[..., 1] / 10 * width + centre_x
        half_height = torch.exp(offsets[..., 2] / 5) * height / 2
        half_width = torch.exp(offsets[..., 3] / 5) * width / 2
        corners = [x - half_width, y - half_height, x + half_width, y + half_height]
        return torch.stack(corners, -1), outputs["logits"].sigmoid()

    def tail_parameters(self) -> Sequence[Tensor]:
        """Blocks behind the cut, extra stages and box heads."""
        behind: list[nn.Module] = list(self.backbone.blocks[_CUT + 1 :])
        behind += [self.backbone.last, self.extra, self.heads]
        return [parameter for part in behind for parameter in part.parameters()]


def _rows(grid: Tensor, values: int) -> Tensor:
    """[n, anchors * values, h, w] -> [n, h * w * anchors, values]."""
    # Not len: a tracer would take the number for a constant.
    return grid.permute(0, 2, 3, 1).reshape(grid.shape[0], -1, values)


def _tensors(data: bytes) -> dict[str, Tensor]:
    found = dict(ssd_mobilenetv3_backbone(data))
    constants = float_constants(data)

    def folded(target: str, scope: str, kind: str = "weights") -> None:
        axes = (2, 3, 0, 1) if kind == "depthwise_weights" else (3, 2, 0, 1)
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (constants[f"{scope}/BatchNorm/{name}"] for name in names)
        scale = gamma / np.sqrt(variance + _EPSILON)
        kernel = constants[f"{scope}/{kind}"].transpose(axes)
        found[f"{target}.weight"] = kernel * scale[:, None, None, None]
        found[f"{target}.bias"] = beta - mean * scale

    for row, (stage, narrow, wide) in enumerate(_EXTRA):
        folded(f"extra.{row}.narrow", f"{_ROOT}_1_Conv2d_{stage}_1x1_{narrow}")
        inner = f"{_ROOT}_2_Conv2d_{stage}_3x3_s2_{wide}"
        folded(f"extra.{row}.depthwise", f"{inner}_depthwise", "depthwise_weights")
        folded(f"extra.{row}.widen", inner)
    for number in range(_MAPS):
        for kind, scope in (("box", "BoxEncodingPredictor"), ("classes", "ClassPredictor")):
            root, target = f"BoxPredictor_{number}", f"heads.{number}.{kind}"
            folded(f"{target}.depthwise", f"{root}/{scope}_depthwise", "depthwise_weights")
            kernel = constants[f"{root}/{scope}/weights"].transpose(3, 2, 0, 1)
            found[f"{target}.predict.weight"] = kernel
            found[f"{target}.predict.bias"] = constants[f"{root}/{scope}/biases"]
    found["anchors"] = constants["anchors"]
    return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}

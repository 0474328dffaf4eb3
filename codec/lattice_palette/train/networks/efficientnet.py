"""EfficientNet-Lite0, a classifier of ImageNet's classes, cut at a stride 16 bottleneck."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from codec.kit.losses.frozen import CLASSIFIER, Backbone
from codec.lattice_palette.train.networks.base import CutScale, Features, Outputs, SplitInfo
from shared.errors import RecipeError
from shared.weights import ModelStore

SCALE = "bottleneck"
SIDE = 224
_CUT = 7
"""The block whose projection is the cut: 80 channels at stride 16, behind two fifths of the
network's multiply-adds."""
_CHANNELS = 80


class SplitEfficientNet(nn.Module):
    """224x224 -> 80x14x14 -> 1000 classes."""

    def __init__(self, store: ModelStore) -> None:
        """Raises ModelError when the weights are missing or damaged, RecipeError
        ``missing_package`` without the classes' names.
        """
        super().__init__()
        entry = store.entry(CLASSIFIER.model)
        tensors = load_file(store.path(CLASSIFIER.model))
        self.info = SplitInfo(
            name=CLASSIFIER.model,
            version=entry.version,
            licence=entry.licence,
            task="classification",
            output="classes",
            width=SIDE,
            height=SIDE,
            fit="stretch",
            scales=(CutScale(SCALE, _CHANNELS, 16),),
            classes=tuple(enumerate(imagenet_classes())),
            notice=entry.notice,
        )
        self.backbone = Backbone(tensors, CLASSIFIER.shape)
        self.classifier = nn.Linear(*tensors["classifier.weight"].T.shape)
        with torch.no_grad():
            self.classifier.weight.copy_(tensors["classifier.weight"])
            self.classifier.bias.copy_(tensors["classifier.bias"])
        self.requires_grad_(False)
        self.eval()

    def head(self, picture: Tensor) -> Features:
        """See :class:`codec.lattice_palette.train.networks.base.SplitNetwork`."""
        return {SCALE: self.backbone((picture - 127.5) / 255, (_CUT,))[0]}

    def tail(self, features: Mapping[str, Tensor]) -> Outputs:
        """``logits`` [n, 1000]."""
        x = features[SCALE]
        for block in self.backbone.blocks[_CUT + 1 :]:
            x = block(x)
        return {"logits": self.classifier(self.backbone.head(x).mean((2, 3)))}

    def finish(self, outputs: Outputs) -> tuple[Tensor, ...]:
        """Probabilities [n, 1000]."""
        return (outputs["logits"].softmax(1),)

    def tail_parameters(self) -> Sequence[Tensor]:
        """Blocks behind the cut, the last convolution and the classifier."""
        behind: list[nn.Module] = list(self.backbone.blocks[_CUT + 1 :])
        behind += [self.backbone.last, self.classifier]
        return [parameter for part in behind for parameter in part.parameters()]


_LIST = "_IMAGENET_CATEGORIES"


def imagenet_classes() -> tuple[str, ...]:
    """The names in the order of the classes' numbers.

    They stand in a plain file of the package, which is read and not run: importing the package
    needs a build of it that fits torch's. Raises RecipeError ``missing_package``.
    """
    found = importlib.util.find_spec("torchvision")
    for folder in (found.submodule_search_locations or ()) if found else ():
        file = Path(folder) / "models" / "_meta.py"
        if file.exists():
            names = _literal(file.read_text(encoding="utf-8"))
            if len(names) == 1000:
                return names
    raise RecipeError("missing_package", "ImageNet's class names come with torchvision; install it")


def _literal(source: str) -> tuple[str, ...]:
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == _LIST for target in statement.targets
        ):
            return tuple(str(name) for name in ast.literal_eval(statement.value))
    return ()

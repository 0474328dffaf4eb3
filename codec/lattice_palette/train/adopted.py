"""Bottleneck and tail of a finished bundle, to build the next one from without training them."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from codec.lattice_palette.train.bottleneck import CutModel, ModelSettings
from codec.lattice_palette.train.networks.base import SplitNetwork
from codec.settings import EXTRACTOR_FILES, FeatureSettings
from shared.bundle import Bundle
from shared.errors import RecipeError

_MODEL, _NETWORK, _HALF = "model.", "network.", ".half"


def adopted(
    bundle: Bundle, network: SplitNetwork, settings: ModelSettings, states: int, share: float = 1.0
) -> CutModel:
    """The model whose networks a bundle has; the network's tail becomes the bundle's.

    states: of the bundle to build; those that the old one has not are finer ones, and begin as its
    finest. share: 0 to 1, how far the tail's
    weights go from the network's own to the bundle's, and with them the map back from channels,
    which a linear analysis of as many channels has the inverse of; residual blocks stay. Raises
    RecipeError ``bad_bundle`` for a bundle of another network, or of other settings, and
    BundleError for a damaged one.
    """
    name = bundle.manifest.name
    (tail,) = FeatureSettings.of(bundle).tails or ()
    if tail.model.name != network.info.name:
        text = f"bundle {name} is of {tail.model.name}, not of {network.info.name}"
        raise RecipeError("bad_bundle", text)
    old = bundle.manifest.coarsest_state + 1
    if old > states:
        raise RecipeError("bad_bundle", f"bundle {name} has more than {states} states")
    # The bundle's channels are in the unit of its lattices' steps already.
    model = CutModel(network.info.scales, settings, torch.ones(1), 1.0)
    model.tell_states([0] * old)
    stored = _weights(bundle, EXTRACTOR_FILES["fp32"]) | _weights(bundle, tail.file)

    def take(kind: str, part: nn.Module, of: frozenset[int] | None = None) -> None:
        for label, value in part.named_parameters(prefix=kind):
            if of is not None and id(value) not in of:
                continue
            if label not in stored or stored[label].shape != value.shape:
                text = f"bundle {name} has no {label} of {tuple(value.shape)}"
                raise RecipeError("bad_bundle", text)
            # Parameters of the network only: what is not the network's own begins as noise.
            value.copy_(torch.lerp(value, stored[label], share) if of else stored[label])

    with torch.no_grad():
        take("model.analysis", model.analysis)
        take("model.synthesis", model.synthesis)
        assert isinstance(network, nn.Module)
        take("network", network, frozenset(map(id, network.tail_parameters())))
        for scale in network.info.scales:
            if share < 1:
                _towards_inverse(model, scale.name, share)
    model.tell_states([max(0, state - (states - old)) for state in range(states)])
    return model


def _towards_inverse(model: CutModel, scale: str, share: float) -> None:
    """Let the map back be ``share`` of the way from the analysis's inverse to what it is."""
    analysis, synthesis, _ = model.parts(scale)
    forward, back = analysis.project, synthesis.project
    rows, columns = forward.weight.shape[:2]
    if len(analysis.blocks) or rows != columns:
        raise RecipeError(
            "bad_bundle", "a share of the tail takes a linear map that has an inverse"
        )
    assert forward.bias is not None
    assert back.bias is not None
    inverse = torch.linalg.inv(forward.weight[:, :, 0, 0].double())
    offset = -inverse @ forward.bias.double()
    back.weight.copy_(torch.lerp(inverse.float()[:, :, None, None], back.weight, share))
    back.bias.copy_(torch.lerp(offset.float(), back.bias, share))


def _weights(bundle: Bundle, file: str) -> dict[str, Tensor]:
    """The constants of one of its ONNX files, by name, as float32."""
    graph = onnx.load_model_from_string(bundle.read(file)).graph
    return {
        tensor.name.removesuffix(_HALF): torch.from_numpy(
            numpy_helper.to_array(tensor).astype(np.float32)
        )
        for tensor in graph.initializer
    }

"""EfficientNet-Lite0 cut in two: the halves know what is on photos, and its classes have names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from codec.kit.losses.frozen import CLASSIFIER
from codec.kit.recipe import open_recipe
from codec.lattice_palette.train.networks.efficientnet import (
    SCALE,
    SplitEfficientNet,
    imagenet_classes,
)
from codec.lattice_palette.train.networks.opening import open_network
from codec.lattice_palette.train.recipe import SplitRecipe
from shared.errors import RecipeError
from tests.support.real_store import fetched


@pytest.fixture(scope="module")
def network() -> SplitEfficientNet:
    return SplitEfficientNet(fetched(CLASSIFIER.model))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("chelsea", {"Egyptian cat", "tabby", "tiger cat"}), ("coffee", {"espresso"})],
)
def test_it_knows_what_is_on_a_photo(
    network: SplitEfficientNet, photos: dict[str, np.ndarray], name: str, wanted: set[str]
):
    picture = Image.fromarray(photos[name]).resize((224, 224), Image.Resampling.BOX)
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        ((scores,),) = network.finish(network.tail(network.head(image)))
    assert scores.shape == (1000,)
    assert float(scores.sum()) == pytest.approx(1, abs=1e-4)
    assert network.info.classes[int(scores.argmax())][1] in wanted


def test_what_crosses_the_cut_is_as_the_manifest_will_say(network: SplitEfficientNet):
    features = network.head(torch.rand(2, 3, 224, 224) * 255)
    (scale,) = network.info.scales
    assert (scale.name, scale.channels, 224 // scale.stride) == (SCALE, 80, 14)
    assert features[SCALE].shape == (2, 80, 14, 14)
    parameters = network.tail_parameters()
    assert not any(parameter.requires_grad for parameter in parameters)
    whole = sum(parameter.numel() for parameter in network.parameters())
    assert 0.8 < sum(parameter.numel() for parameter in parameters) / whole < 1


def test_the_thousand_names_are_in_order():
    names = imagenet_classes()
    assert len(names) == 1000
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")


def test_names_that_are_not_there_are_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError) as caught:
        imagenet_classes()
    assert caught.value.reason == "missing_package"


def test_a_network_that_is_not_known_is_an_error():
    recipe = open_recipe("classify", ["network=resnet"])[1]
    assert isinstance(recipe, SplitRecipe)
    with pytest.raises(RecipeError, match="there is: efficientnet-lite0") as caught:
        open_network(recipe)
    assert caught.value.reason == "bad_recipe"

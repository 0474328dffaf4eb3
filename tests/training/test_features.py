"""Feature matching: the networks are the published ones, and their distances mean something."""

from __future__ import annotations

import io
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file

from codec.kit.losses.frozen import (
    CLASSIFIER,
    DETECTOR,
    LOSSES,
    Backbone,
    FeatureDistance,
    load_losses,
)
from tests.support.real_store import fetched

Photos = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def losses() -> dict[str, FeatureDistance]:
    store = fetched(*(network.model for network in LOSSES.values()))
    return load_losses({name: store.path(network.model) for name, network in LOSSES.items()})


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255 - 0.5


def crop(photos: Photos, name: str = "astronaut", side: int = 192) -> np.ndarray:
    return photos[name][40 : 40 + side, 100 : 100 + side]


@pytest.mark.parametrize("size", [(320, 320), (160, 224)])
def test_the_detectors_features_equal_opencvs_run_of_the_frozen_graph(
    photos: Photos, size: tuple[int, int]
) -> None:
    """Also on an oblong picture, whose margins differ."""
    store = fetched("ssd-mobilenetv3-coco", "ssd-mobilenetv3-coco-graph", DETECTOR.model)
    net = cv2.dnn.readNetFromTensorflow(
        str(store.path("ssd-mobilenetv3-coco")), str(store.path("ssd-mobilenetv3-coco-graph"))
    )
    photo = np.asarray(Image.fromarray(photos["astronaut"]).resize(size[::-1]))
    backbone = Backbone(load_file(store.path(DETECTOR.model)), DETECTOR.shape)
    with torch.inference_mode():
        ours = backbone(tensor(photo), DETECTOR.taps)
        head = backbone.head(ours[-1])
    layers = {
        "expanded_conv_5/add": ours[0],
        "expanded_conv_6/project/BatchNorm/FusedBatchNormV3": ours[1],
        "expanded_conv_11/add": ours[2],
        "expanded_conv_14/add": ours[3],
        "Conv_1/hard_swish/mul_1": head,
    }
    for name, mine in layers.items():
        net.setInput(cv2.dnn.blobFromImage(photo, 1 / 127.5, mean=(127.5, 127.5, 127.5)))
        theirs = net.forward(f"FeatureExtractor/MobilenetV3/{name}")
        assert theirs.shape == mine.shape
        np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-3 * np.abs(theirs).max())


@pytest.mark.parametrize(("name", "label"), [("chelsea", 285), ("coffee", 967)])
def test_the_converted_classifier_names_photos(photos: Photos, name: str, label: int) -> None:
    """285 is ImageNet's Egyptian cat, 967 espresso."""
    tensors = load_file(fetched(CLASSIFIER.model).path(CLASSIFIER.model))
    backbone = Backbone(tensors, CLASSIFIER.shape)
    photo = np.asarray(Image.fromarray(photos[name]).resize((224, 224)))
    with torch.inference_mode():
        pooled = backbone.head(backbone(tensor(photo), (15,))[0]).mean((2, 3))
        scores = pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    assert int(scores.argmax()) == label
    assert float(scores.softmax(1).max()) > 0.5


@pytest.mark.parametrize("name", LOSSES)
def test_channels_deviate_about_as_much_as_batch_norm_says(
    losses: dict[str, FeatureDistance], photos: Photos, name: str
) -> None:
    loss = losses[name]
    with torch.inference_mode():
        features = loss.backbone(
            torch.cat([tensor(crop(photos, photo)) for photo in photos]), loss.taps
        )
    for feature, expected in zip(features, loss.backbone.deviations(loss.taps), strict=True):
        seen = feature.std((0, 2, 3)).square().mean().sqrt()
        assert 0.5 < float(seen / expected.square().mean().sqrt()) < 2


@pytest.mark.parametrize("name", LOSSES)
def test_distances_grow_with_coarser_codes_and_blur(
    losses: dict[str, FeatureDistance], photos: Photos, name: str
) -> None:
    photo = crop(photos)
    picture = Image.fromarray(photo)

    def coded(quality: int) -> np.ndarray:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    def far(other: np.ndarray) -> float:
        with torch.inference_mode():
            return float(losses[name](tensor(other), tensor(photo))[0])

    by_quality = [far(coded(quality)) for quality in (95, 60, 20, 5)]
    by_blur = [
        far(np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)))) for radius in (1, 2, 4)
    ]
    assert far(photo) == 0
    for row in (by_quality, by_blur):
        assert all(1.3 * nearer < farther for nearer, farther in pairwise(row))
    assert max(by_quality + by_blur) < far(crop(photos, "coffee")) < 4


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_lead_towards_the_original(
    losses: dict[str, FeatureDistance], photos: Photos, name: str
) -> None:
    original = tensor(crop(photos, side=96))
    blurred = tensor(
        np.asarray(Image.fromarray(crop(photos, side=96)).filter(ImageFilter.GaussianBlur(3)))
    )
    picture = blurred.clone().requires_grad_()
    optimiser = torch.optim.Adam([picture], lr=0.01)
    distances = []
    for _ in range(12):
        optimiser.zero_grad()
        distance = losses[name](picture, original).mean()
        distance.backward()
        optimiser.step()
        distances.append(distance.item())
    assert distances[-1] < 0.6 * distances[0]
    start = blurred.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses[name](start, original).sum(), start)
    assert float((gradient * (original - blurred)).sum()) < 0
    with torch.inference_mode():
        way = [float(losses[name](blurred.lerp(original, t), original)) for t in (0, 0.3, 0.6, 1)]
    assert way == sorted(way, reverse=True)


def test_networks_stay_as_they_are_and_judge_every_sample_alone(
    losses: dict[str, FeatureDistance], photos: Photos
) -> None:
    """Sides need not be multiples of the stride; bf16 is near float32."""
    originals = torch.cat([tensor(crop(photos, photo, 70)) for photo in ("astronaut", "coffee")])
    others = (originals + 0.05 * torch.randn_like(originals)).requires_grad_()
    for loss in losses.values():
        assert not any(parameter.requires_grad for parameter in loss.parameters())
        both = loss(others, originals)
        alone = torch.cat([loss(others[k : k + 1], originals[k : k + 1]) for k in range(2)])
        torch.testing.assert_close(both, alone, rtol=1e-3, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            rough = loss(others, originals)
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough, both, rtol=0.05, atol=1e-3)
        (gradient,) = torch.autograd.grad(both.sum(), others)
        assert float(gradient.flatten(1).norm(dim=1).min()) > 0

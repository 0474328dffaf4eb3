"""The whole detector in torch, cut in two, is the one that OpenCV runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cloud_server.tasks.detection import Ssd
from cloud_server.tasks.geometry import shrink
from codec.lattice_palette.train.fit import curvature_sample, distance
from codec.lattice_palette.train.networks.ssd import SCALE, SplitSsd
from codec.settings import TailClass, TailModel, TailSpec
from codec.tails.outputs import detections
from shared.preprocess import Placement
from shared.results import Stopwatch
from shared.weights import ModelStore


@pytest.fixture(scope="module")
def network() -> SplitSsd:
    return SplitSsd(ModelStore())


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_head_and_tail_find_what_opencv_finds(
    network: SplitSsd, photos: dict[str, NDArray[np.uint8]], name: str
) -> None:
    photo = photos[name]
    height, width = photo.shape[:2]
    small = torch.from_numpy(np.ascontiguousarray(shrink(photo, 320, 320)))
    with torch.no_grad():
        features = network.head(small.permute(2, 0, 1)[None].float())
        boxes, scores = network.finish(network.tail(features))
    assert features[SCALE].shape == (1, 80, 20, 20)
    assert scores.shape[2] == len(network.info.classes) == 80
    spec = TailSpec(
        task="detection",
        output="boxes",
        classes=tuple(TailClass(id=number, name=text) for number, text in network.info.classes),
        model=TailModel(name="ssd", version="1", licence="Apache-2.0"),
    )
    placement = Placement.of(width, height, 320, 320)
    ours = detections(boxes[0].numpy(), scores[0].numpy(), spec, placement, 0.5)
    theirs = Ssd(ModelStore()).find(photo, 0.5, Stopwatch())
    assert [d.class_name for d in ours] == [d.class_name for d in theirs] != []
    for one, other in zip(ours, theirs, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-3)
        assert one.box.x_min == pytest.approx(other.box.x_min, abs=0.5)
        assert one.box.y_max == pytest.approx(other.box.y_max, abs=0.5)


def test_distance_is_zero_at_the_networks_own_outputs_and_curved_as_its_sample_says(
    network: SplitSsd, photos: dict[str, NDArray[np.uint8]]
) -> None:
    torch.manual_seed(0)
    small = torch.from_numpy(np.ascontiguousarray(shrink(photos["astronaut"], 320, 320)))
    with torch.no_grad():
        features = network.head(small.permute(2, 0, 1)[None].float())
        wanted = network.tail(features)
    assert float(distance("boxes", wanted, wanted)) == pytest.approx(0, abs=1e-3)

    direction = torch.randn_like(features[SCALE])
    moved = {SCALE: (features[SCALE] + 0).requires_grad_()}
    outputs = network.tail(moved)
    squares = []
    for _ in range(24):
        value = curvature_sample("boxes", outputs, wanted)
        (gradient,) = torch.autograd.grad(value, [moved[SCALE]], retain_graph=True)
        squares.append(float((gradient * direction).sum()) ** 2)
    expected = sum(squares) / len(squares) / 2
    step = 3e-3
    with torch.no_grad():
        there = network.tail({SCALE: features[SCALE] + step * direction})
    measured = float(distance("boxes", there, wanted)) / step**2
    assert measured == pytest.approx(expected, rel=0.8)

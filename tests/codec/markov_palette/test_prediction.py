"""A finer scale as a residual of what the coarser one's colours predict."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codec.markov_palette.palette import MarkovPalette, PaletteTree
from codec.markov_palette.prediction import ScalePrediction
from codec.settings import DiffusionState, PlaneSpec
from shared.errors import BundleError
from tests.support.tiny_features import distortion

PLANES = [
    PlaneSpec(name="a", scale="coarse", first_channel=0, channels=2, depth=3),
    PlaneSpec(name="b", scale="coarse", first_channel=2, channels=2, depth=3),
    PlaneSpec(name="c", scale="fine", first_channel=0, channels=2, depth=4),
    PlaneSpec(name="d", scale="fine", first_channel=2, channels=1, depth=2),
]
STATES = [
    DiffusionState(state=0, depths=(3, 3, 4, 2), typical_bits_per_pixel=0),
    DiffusionState(state=1, depths=(2, 1, 0, 0), typical_bits_per_pixel=0),
]


def weights(outputs: int = 12, inputs: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((outputs, inputs, 3, 3)).astype(np.float32)
    return weight, rng.standard_normal(outputs).astype(np.float32)


def palette(predictions: dict[str, ScalePrediction] | None = None) -> MarkovPalette:
    rng = np.random.default_rng(4)
    trees = {
        plane.name: PaletteTree.from_leaves(
            rng.standard_normal((2**plane.depth, plane.channels)), np.ones(2**plane.depth, int)
        )
        for plane in PLANES
    }
    return MarkovPalette(PLANES, trees, STATES, predictions)


def test_it_is_a_convolution_and_a_pixel_shuffle() -> None:
    weight, bias = weights()
    colours = np.random.default_rng(5).standard_normal((4, 3, 5)).astype(np.float32)
    expected = torch.nn.functional.pixel_shuffle(
        torch.nn.functional.conv2d(
            torch.from_numpy(colours)[None], torch.from_numpy(weight), torch.from_numpy(bias),
            padding=1,
        ),
        2,
    )  # fmt: skip
    got = ScalePrediction("fine", "coarse", weight, bias).predict(colours, 3)
    np.testing.assert_allclose(got, expected[0].numpy(), atol=1e-4)


def test_the_fine_scale_is_quantised_as_what_the_coarse_colours_leave() -> None:
    plain, weight_and_bias = palette(), weights()
    predicted = palette({"fine": ScalePrediction("fine", "coarse", *weight_and_bias)})
    rng = np.random.default_rng(6)
    features = {
        "coarse": rng.standard_normal((4, 3, 5)).astype(np.float32),
        "fine": rng.standard_normal((3, 6, 10)).astype(np.float32),
    }
    indices = predicted.encode(features)
    colours = plain.decode(plain.encode(features), 0)["coarse"]
    left = features["fine"] - ScalePrediction("fine", "coarse", *weight_and_bias).predict(
        colours, 3
    )
    expected = plain.encode({**features, "fine": left})
    for name in ("a", "b", "c", "d"):
        np.testing.assert_array_equal(indices[name], expected[name])
    assert distortion(predicted, features, indices, 0) == pytest.approx(
        distortion(plain, {**features, "fine": left}, expected, 0)
    )


def test_it_survives_the_file() -> None:
    kept = palette({"fine": ScalePrediction("fine", "coarse", *weights())})
    again = MarkovPalette.from_arrays(PLANES, STATES, kept.to_arrays())
    np.testing.assert_array_equal(again.predictions["fine"].weight, kept.predictions["fine"].weight)


@pytest.mark.parametrize(
    "change",
    [
        {"prediction.fine.coarse.bias": None},
        {"prediction.fine.coarse.bias": np.zeros(11, np.float32)},
        {"prediction.fine.coarse.weight": np.zeros((12, 4, 3, 3), np.float64)},
        {"prediction.fine.coarse.weight": np.full((12, 4, 3, 3), np.nan, np.float32)},
        {"prediction.fine.coarse.weight": np.zeros((12, 5, 3, 3), np.float32)},
        {
            "prediction.fine.coarse.weight": np.zeros((11, 4, 3, 3), np.float32),
            "prediction.fine.coarse.bias": np.zeros(11, np.float32),
        },
        {
            "prediction.coarse.fine.weight": np.zeros((12, 4, 3, 3), np.float32),
            "prediction.coarse.fine.bias": np.zeros(12, np.float32),
        },
        {
            "prediction.fine.fine.weight": np.zeros((12, 3, 3, 3), np.float32),
            "prediction.fine.fine.bias": np.zeros(12, np.float32),
        },
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, np.ndarray | None]) -> None:
    arrays = palette({"fine": ScalePrediction("fine", "coarse", *weights())}).to_arrays()
    changed = {k: v for k, v in (arrays | change).items() if v is not None}
    with pytest.raises(BundleError) as caught:
        MarkovPalette.from_arrays(PLANES, STATES, changed)
    assert caught.value.reason == "bad_palette"

"""Entropy-constrained assignment: fewer bits for a little error, and a stream like any other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from codec.markov_palette.coding import MarkovPaletteCodec
from codec.onnx import FeatureExtractor
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.targets import RateTarget
from tests.support.tiny_bundle import make_codec_bundle
from tests.support.tiny_features import smooth_features

SIZE = (640, 480)
WEIGHTS = (0.0, 0.1, 0.5, 2.0)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> MarkovPaletteCodec:
    return MarkovPaletteCodec(make_codec_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def features() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        name: grid + 0.3 * rng.standard_normal(grid.shape).astype(np.float32)
        for name, grid in smooth_features(*SIZE).items()
    }


def squared_error(codec: MarkovPaletteCodec, features: dict[str, np.ndarray], rate: float) -> float:
    palette, indices = codec.chains[0].palette, codec.chains[0].quantise(features, rate)
    return float(
        sum(
            np.square(palette.residual(features, name, indices) - grid).sum()
            for name, grid in palette.decode(indices, 0).items()
        )
    )


def test_bits_fall_and_error_rises_with_the_weight(
    codec: MarkovPaletteCodec, features: dict[str, np.ndarray]
) -> None:
    sizes = [codec.encode(features, *SIZE, rate_weight=w).file_bytes for w in WEIGHTS]
    errors = [squared_error(codec, features, weight) for weight in WEIGHTS]
    assert all(coarser < finer for finer, coarser in pairwise(sizes))
    assert all(before <= after for before, after in pairwise(errors))
    assert sizes[-1] < 0.9 * sizes[0]


@pytest.mark.parametrize("weight", [0.003, 0.01])
def test_the_cost_that_is_minimised_falls(photos: dict[str, np.ndarray], weight: float) -> None:
    """Error plus weighted bits of the real stream of the default bundle, for a photo."""
    bundle = Bundle.load()
    codec = MarkovPaletteCodec(bundle)
    photo = photos["coffee"]
    height, width = photo.shape[:2]
    features = FeatureExtractor(bundle)(photo)

    def cost(rate: float) -> float:
        bits = 8 * codec.encode(features, width, height, rate_weight=rate).file_bytes
        return squared_error(codec, features, rate) + weight * bits

    assert cost(weight) < cost(0.0)
    assert cost(weight) < cost(10 * weight)


def test_without_a_weight_leaves_are_the_nearest(
    codec: MarkovPaletteCodec, features: dict[str, np.ndarray]
) -> None:
    nearest = codec.chains[0].palette.encode(features)
    tiny = codec.chains[0].quantise(features, 1e-9)
    for name, grid in codec.chains[0].quantise(features).items():
        np.testing.assert_array_equal(grid, nearest[name])
        np.testing.assert_array_equal(grid, tiny[name])


def test_its_streams_decode_truncate_and_shorten_like_any_other(
    codec: MarkovPaletteCodec, features: dict[str, np.ndarray]
) -> None:
    indices = codec.chains[0].quantise(features, 0.3)
    whole = codec.encode(features, *SIZE, rate_weight=0.3)
    assert whole == codec.chains[0].code(indices, *SIZE)
    for state in range(5):
        read = Bitstream.from_bytes(whole.truncate(state).to_bytes())
        merged = codec.chains[0].palette.merge(indices, 0, state)
        for name, grid in codec.decode(read).indices.items():
            np.testing.assert_array_equal(grid, merged[name])
    budget = whole.cumulative_bytes()[1] + 100
    within = codec.encode(features, *SIZE, RateTarget(max_bytes=budget), rate_weight=0.3)
    assert codec.shorten(whole, budget).to_bytes() == within.to_bytes()

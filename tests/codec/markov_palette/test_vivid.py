"""The sampled backward chain: it never contradicts what was received."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from codec import PLAIN, Rendering
from codec.latents import FeatureLatents
from codec.markov_palette.coding import MarkovPaletteCodec
from codec.markov_palette.reconstruct import PictureReconstructor
from codec.markov_palette.sampler import MarkovPaletteScheduler
from codec.settings import FeatureSettings, with_settings
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.errors import BundleError
from tests.support.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> MarkovPaletteCodec:
    return MarkovPaletteCodec(bundle)


@pytest.fixture(scope="module")
def latents(
    bundle: Bundle, codec: MarkovPaletteCodec, photos: dict[str, np.ndarray]
) -> list[FeatureLatents]:
    whole = EdgeEncoder(bundle).encode(photos["chelsea"])
    return [codec.decode(whole.truncate(state)) for state in range(5)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_merging_a_sample_gives_exactly_what_was_received(
    bundle: Bundle, codec: MarkovPaletteCodec, latents: list[FeatureLatents], seed: int
) -> None:
    worker = PictureReconstructor.from_bundle(bundle)
    for received in latents:
        drawn = worker.sample_indices(received, seed)
        finest = {name: grid[0].numpy().astype(np.int32) for name, grid in drawn.items()}
        merged = codec.chains[0].palette.merge(finest, 0, received.state)
        for name, grid in received.indices.items():
            np.testing.assert_array_equal(merged[name], grid)


@pytest.mark.parametrize("place", [(4, 1), (4, 5), (3, 3), (2, 1), (1, 2), (1, 3)])
def test_a_sample_keeps_what_a_partial_layer_brought(
    bundle: Bundle, codec: MarkovPaletteCodec, photos: dict[str, np.ndarray], place: tuple[int, int]
) -> None:
    """Every position, at the depth that it was received at; the rest is drawn."""
    photo = photos["chelsea"]
    height, width = photo.shape[:2]
    whole = EdgeEncoder(bundle).encode(photo)
    state, passes = place
    indices = codec.decode(whole).indices
    received = codec.decode(
        codec.chains[0].code(indices, width, height, state=state, passes=passes)
    )
    drawn = PictureReconstructor.from_bundle(bundle).sample_indices(received, 4)
    other = PictureReconstructor.from_bundle(bundle).sample_indices(received, 5)
    for name, grid in received.indices.items():
        below = codec.chains[0].palette.trees[name].depth - received.depths[name].astype(int)
        np.testing.assert_array_equal(drawn[name][0].numpy() >> below, grid)
    if state > 1:  # enough is left to draw
        assert any(not torch.equal(drawn[name], other[name]) for name in drawn)


def test_encoding_a_samples_colours_again_gives_the_received_indices(
    bundle: Bundle, codec: MarkovPaletteCodec, latents: list[FeatureLatents]
) -> None:
    """In latent space, by the full leaf search that an edge would run."""
    worker = PictureReconstructor.from_bundle(bundle)
    received = latents[3]
    drawn = worker.sample_indices(received, 5)
    finest = {name: grid[0].numpy().astype(np.int32) for name, grid in drawn.items()}
    again = codec.chains[0].palette.merge(
        codec.chains[0].palette.encode(codec.chains[0].palette.decode(finest, 0)), 0, 3
    )
    for name, grid in received.indices.items():
        np.testing.assert_array_equal(again[name], grid)


def test_a_seed_means_a_picture_whatever_else_is_in_the_batch(
    bundle: Bundle, latents: list[FeatureLatents]
) -> None:
    worker = PictureReconstructor.from_bundle(bundle)
    alone = worker.reconstruct([latents[4]], Rendering("vivid", 3))[0].astype(int)
    together = worker.reconstruct([latents[2], latents[4]], Rendering("vivid", 3))[1]
    other = worker.reconstruct([latents[4]], Rendering("vivid", 4))[0]
    faithful = worker.reconstruct([latents[4]])[0]
    assert np.abs(alone - together).max() <= 1
    assert not np.array_equal(alone, other)
    assert not np.array_equal(alone, faithful)


def test_at_the_finest_state_there_is_nothing_to_sample(
    bundle: Bundle, latents: list[FeatureLatents]
) -> None:
    worker = PictureReconstructor.from_bundle(bundle)
    vivid = worker.reconstruct([latents[0]], Rendering("vivid", 1))[0]
    faithful = worker.reconstruct([latents[0]], PLAIN)[0]
    np.testing.assert_array_equal(vivid, faithful)


def test_draws_follow_the_documented_odds(codec: MarkovPaletteCodec) -> None:
    """Many positions with one node and one estimate: children come as often as Bayes says."""
    scheduler = MarkovPaletteScheduler(5)
    scheduler.set_palette(codec.chains[0].palette, torch.device("cpu"))
    plane = codec.chains[0].palette.planes[2]
    tree = codec.chains[0].palette.trees[plane.name]
    nodes = {
        p.name: torch.zeros(1, 200, 200, dtype=torch.long) for p in codec.chains[0].palette.planes
    }
    estimate = torch.tensor([0.2, -0.1, 0.3])
    fine = {
        "semantic": torch.zeros(1, 8, 200, 200),
        "texture": estimate.view(1, 3, 1, 1).expand(1, 3, 200, 200),
    }
    variance = 1.5
    # From state 2 to 1, the only change is the texture plane's first split.
    made = scheduler.step(
        fine, 2, nodes, {"semantic": 1.0, "texture": variance}, torch.Generator().manual_seed(0)
    ).prev_sample
    colours = tree.colours(1).astype(float)
    weights = tree.counts.astype(float).reshape(2, -1).sum(1)
    likelihood = np.exp(-np.square(estimate.numpy() - colours).sum(1) / (2 * variance)) * weights
    expected = likelihood[1] / likelihood.sum()
    assert float(made[plane.name].float().mean()) == pytest.approx(expected, abs=0.01)
    likelier = MarkovPaletteScheduler(5, temperature=0.0)
    likelier.set_palette(codec.chains[0].palette, torch.device("cpu"))
    taken = likelier.step(fine, 2, nodes, {"semantic": 1.0, "texture": variance}).prev_sample
    assert set(taken[plane.name].unique().tolist()) == {int(expected > 0.5)}


def test_a_bundle_that_cannot_sample_says_so(
    bundle: Bundle, latents: list[FeatureLatents], tmp_path: Path
) -> None:
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    decoder = {**FeatureSettings.of(bundle).decoder, "variances": []}
    plain = Bundle.create(tmp_path, with_settings(bundle.manifest, decoder=decoder), files)
    with pytest.raises(BundleError) as refused:
        PictureReconstructor.from_bundle(plain).reconstruct([latents[2]], Rendering("vivid", 0))
    assert refused.value.reason == "no_sampler"

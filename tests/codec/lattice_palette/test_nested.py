"""Nested lattices: they nest, they are exact, and what stands still costs next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from codec.base import CloudCodec, EdgeCodec, open_cloud, open_edge, small_bundle
from codec.lattice_palette.coding import LatticeCodec
from codec.lattice_palette.nested.choice import choose
from codec.lattice_palette.nested.coding import NestedChain
from codec.lattice_palette.nested.palette import NestedPalette, NestedPlane, coarser
from codec.lattice_palette.train.nested.contexts import (
    FloatNetwork,
    NestedContextsPart,
    fit_nested,
)
from codec.settings import DiffusionState, PlaneSpec
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import BitstreamError, BundleError
from shared.targets import RateTarget
from tests.support.contract import picture
from tests.support.hostile_bitstreams import mutate, reseal

MUTANTS = 10_000
SIZE = (75, 50)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle("lattice-palette", tmp_path_factory.mktemp("nested"), "nested")


@pytest.fixture
def edge(bundle: Bundle) -> EdgeCodec[Any, Any]:
    return open_edge(bundle)


@pytest.fixture(scope="module")
def cloud(bundle: Bundle) -> CloudCodec[Any]:
    return open_cloud(bundle)


@pytest.fixture
def chain(bundle: Bundle) -> NestedChain:
    (found,) = LatticeCodec(bundle).chains
    assert isinstance(found, NestedChain)
    return found


def features(seed: int, spread: float = 0.4) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"rgb": rng.normal(0, spread, (3, 4, 4)).astype(np.float32)}


def test_rounding_once_is_rounding_at_every_depth(chain: NestedChain) -> None:
    fine, half = chain.palette.quantise(features(1), 0), chain.palette.quantise(features(1), 1)
    for name, plane in chain.palette.planes.items():
        depths = (plane.spec.depth, chain.palette.depths(1)[int(name[-1])])
        np.testing.assert_array_equal(coarser(fine[name], depths[0] - depths[1]), half[name])
    every = np.arange(-40, 41)
    np.testing.assert_array_equal(coarser(every, 1), np.rint(every / 3))


def test_a_value_is_kept_as_far_as_a_bit_is_worth(chain: NestedChain) -> None:
    """More weight on bits keeps more; no weight sends the nearest steps."""
    before = chain.palette.quantise(features(2), 0)
    depths = {
        name: np.full((4, 4), p.spec.depth, np.uint8) for name, p in chain.palette.planes.items()
    }
    moved = {"rgb": features(2)["rgb"] + features(3, 0.02)["rgb"]}
    nearest = chain.palette.quantise(moved, 0)
    kept = []
    for weight in (0.0, 0.05, 0.2, 1.0):
        chosen, changed = choose(chain.palette, moved, (before, depths), 0, weight)
        kept.append(sum(int((chosen[name] == before[name]).sum()) for name in chosen))
        assert 0 <= changed <= 1
        if not weight:
            assert all((chosen[name] == nearest[name]).all() for name in chosen)
    assert kept == sorted(kept)
    assert kept[-1] > kept[0]


def _two_planes(channels: int) -> NestedPalette:
    """Two planes of some channels each; its finer state has one of a step of 1 and one of 3."""
    limits, means = np.full(channels, 40, np.int16), np.zeros(channels, np.float32)
    specs = [
        PlaneSpec(name=name, scale="rgb", first_channel=first, channels=channels, depth=depth)
        for name, first, depth in (("fine", 0, 2), ("coarse", channels, 1))
    ]
    states = [
        DiffusionState(state=row, depths=depths, typical_bits_per_pixel=0.1)
        for row, depths in enumerate(((2, 1), (1, 0)))
    ]
    weights = np.full(2, 0.1, np.float32)
    steps = (1.0, 3.0)
    planes = [
        NestedPlane(spec, step, limits, means) for spec, step in zip(specs, steps, strict=True)
    ]
    return NestedPalette(planes, states, np.zeros((1, 1), np.uint8), weights)


def test_a_bit_is_worth_the_same_error_at_every_step() -> None:
    """Where a state mixes steps, what is sent is what costs most, in whichever plane."""
    palette = _two_planes(20)
    before = {name: np.zeros((20, 1, 1), np.int32) for name in palette.planes}
    depths = {name: np.full((1, 1), d, np.uint8) for name, d in (("fine", 2), ("coarse", 1))}
    # Rounded, 23.0 squared steps of 1 less in the fine plane's channels, and 21.6 in the coarse's.
    moved = {"rgb": np.full((40, 1, 1), 4.8, np.float32)}
    sent = []
    for weight in (4.0, 4.4, 4.8):
        chosen, _ = choose(palette, moved, (before, depths), 0, weight)
        sent.append([bool(chosen[name].any()) for name in ("fine", "coarse")])
    assert sent[0] == [True, True], "what a change saves is worth it in both"
    assert sent[2] == [False, False]
    assert chosen["coarse"].shape == (20, 1, 1)


def test_contexts_are_the_same_with_however_many_processes() -> None:
    palette, rng = _two_planes(3), np.random.default_rng(4)
    clips = [np.cumsum(rng.normal(0, 3, (3, 6, 5, 4)), 0).astype(np.float32) for _ in range(3)]
    part = NestedContextsPart(hidden=4, width=4, steps=20, batch=8, rows=60)
    one, two = (fit_nested(palette, clips, clips[:1], part, jobs=jobs) for jobs in (1, 2))
    arrays = two.to_arrays()
    for name, values in one.to_arrays().items():
        np.testing.assert_array_equal(values, arrays[name])
    assert all(np.abs(network.enter).sum() for network in one.networks.values())


def test_a_still_scene_is_refined_without_telling_again_what_is_there(
    edge: EdgeCodec[Any, Any], cloud: CloudCodec[Any]
) -> None:
    photo = picture(*SIZE, seed=1)
    coarse = edge.encode(photo, RateTarget(state=2))
    before = edge.decode(coarse)
    finer = edge.encode(photo, RateTarget(state=0), reference=before)
    alone = edge.encode(photo, RateTarget(state=0))
    assert finer.reference is not None
    assert len(finer.layers[0].payload) < len(alone.layers[0].payload) / 2
    assert edge.decode(finer, reference=before).checksum() == edge.decode(alone).checksum()
    there = cloud.decode(Bitstream.from_bytes(finer.to_bytes()), reference=cloud.decode(coarse))
    assert there.checksum() == edge.decode(alone).checksum()


def test_a_reference_that_is_too_coarse_is_found_out(
    edge: EdgeCodec[Any, Any], cloud: CloudCodec[Any]
) -> None:
    first = edge.encode(picture(*SIZE, seed=1), RateTarget(state=0))
    before = edge.decode(first)
    predicted = edge.encode(picture(*SIZE, seed=1), RateTarget(state=0), reference=before)
    assert cloud.decode(predicted, reference=cloud.decode(first)).state == 0
    with pytest.raises(BitstreamError) as refused:
        cloud.decode(
            Bitstream.from_bytes(predicted.to_bytes()), reference=cloud.decode(first.truncate(2))
        )
    assert refused.value.reason == "reference_mismatch"


def _stream(edge: EdgeCodec[Any, Any]) -> Iterator[tuple[Bitstream, Any]]:
    before = None
    for number in range(4):
        photo = picture(*SIZE, seed=1)
        photo[10 : 10 + 8 * number, 20:50] = picture(*SIZE, seed=2)[10 : 10 + 8 * number, 20:50]
        made = edge.encode(photo, RateTarget(state=0), reference=before)
        yield made, before
        before = edge.decode(made, reference=before)


def test_mutants_of_predicted_frames_and_references_are_refused_or_of_an_encoder(
    edge: EdgeCodec[Any, Any], cloud: CloudCodec[Any]
) -> None:
    """Half are damaged, half forged with right checksums; some meet another frame's values."""
    rng = np.random.default_rng(14)
    frames = [(made, before) for made, before in _stream(edge) if before is not None]
    assert len(frames) == 3
    refused = wrong = 0
    for number in range(MUTANTS):
        (made, before), (other, others) = (frames[i] for i in rng.permutation(3)[:2])
        forged, swapped = number % 2 == 1, number % 5 == 0
        mutant = reseal(made, rng) if forged else mutate(made.to_bytes(), other.to_bytes(), rng)
        reference = cloud.cut(others if swapped else before, int(rng.integers(0, 3)))
        try:
            bitstream = Bitstream.from_bytes(mutant, allow_cut=True)
            latents = cloud.decode(bitstream, reference=reference)
        except BitstreamError:
            refused += 1
            continue
        assert (latents.width, latents.height) == (bitstream.width, bitstream.height)
        if bitstream.reference is not None and not forged:
            found = cloud.reference_checksum(reference)
            wrong += found != bitstream.reference.checksum
    assert not wrong
    assert refused > MUTANTS // 2


def test_networks_of_predicted_frames_may_learn_for_fewer_steps() -> None:
    palette, rng = _two_planes(3), np.random.default_rng(4)
    clips = [np.cumsum(rng.normal(0, 3, (3, 6, 5, 4)), 0).astype(np.float32) for _ in range(3)]
    part = NestedContextsPart(hidden=4, width=4, steps=20, batch=8, rows=60)
    fewer = part.model_copy(update={"predicted_steps": 5})
    one, two = (fit_nested(palette, clips, clips[:1], each).networks for each in (part, fewer))
    for name in one:
        same = np.array_equal(one[name].enter, two[name].enter)
        assert same == name.startswith("key."), name


def test_weights_that_have_grown_too_large_are_brought_back_to_what_is_exact() -> None:
    network = FloatNetwork(6, 8, NestedContextsPart(hidden=4, width=4))
    signs = torch.sign(network.enter.detach())
    with torch.no_grad():
        network.enter.copy_(100 * signs)
    with pytest.raises(BundleError) as refused:
        network.rounded()
    assert refused.value.reason == "bad_contexts"
    network.bound()
    made = network.rounded()
    np.testing.assert_array_equal(np.sign(made.enter), signs.numpy())
    before = network.enter.detach().clone()
    network.bound()  # what is within it stays as it is
    assert torch.allclose(network.enter, before)

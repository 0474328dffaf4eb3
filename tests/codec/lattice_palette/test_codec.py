"""The lattice codec from features to bytes and back, and what it makes of damaged bytes."""

from __future__ import annotations

import numpy as np
import pytest

from codec.lattice_palette.coding import LatticeCodec
from codec.lattice_palette.planes import channels
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import BitstreamError, BudgetError
from shared.targets import RateTarget
from tests.support.hostile_bitstreams import mutate, reseal
from tests.support.lattice_bundle import SCALE, features, make_lattice_bundle

DAMAGED, RESEALED = 2000, 1000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_lattice_bundle(tmp_path_factory.mktemp("lattice"))


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> LatticeCodec:
    return LatticeCodec(bundle)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (33, 97), (200, 120)])
def test_every_state_comes_back(codec: LatticeCodec, width: int, height: int) -> None:
    given = features(width, height)
    sizes = []
    for state in range(4):
        made = codec.encode(given, width, height, RateTarget(state=state))
        again = Bitstream.from_bytes(made.to_bytes())
        latents = codec.decode(again)
        assert (latents.state, latents.width, latents.height) == (state, width, height)
        chain = codec.chains[0 if state < 3 else 1]
        told = chain.palette.sent(state)
        wanted = chain.palette.quantise(given)
        for name, plane in chain.palette.planes.items():
            first = plane.spec.first_channel
            here = latents.scales[SCALE][first : first + plane.spec.channels]
            if name in told:
                np.testing.assert_array_equal(here, wanted[name] * np.float32(plane.step))
            else:
                assert (here == plane.means[:, None, None]).all()
        sizes.append(made.file_bytes)
    assert sizes[0] >= sizes[1] >= sizes[2]


def test_a_coarser_state_is_a_prefix(codec: LatticeCodec) -> None:
    fine = codec.encode(features(200, 120), 200, 120)
    for state in (1, 2):
        coarse = codec.encode(features(200, 120), 200, 120, RateTarget(state=state))
        assert fine.truncate(state).to_bytes() == coarse.to_bytes()


def test_budgets_are_met_to_the_pass(codec: LatticeCodec) -> None:
    given = features(200, 120)
    whole = codec.encode(given, 200, 120)
    finest = codec.decode(whole).indices
    seen = set()
    for budget in range(whole.truncate(2).file_bytes, whole.file_bytes + 9, 7):
        made = codec.encode(given, 200, 120, RateTarget(max_bytes=budget))
        assert made.file_bytes <= budget
        if made.layers[0].state == 2:
            assert made.to_bytes() == codec.shorten(whole, budget).to_bytes()
            for name, grid in codec.decode(made).indices.items():
                assert ((grid == finest[name]) | (grid == 0)).all()
        latents = codec.decode(made)
        assert 0 <= latents.progress < 1
        seen.add((made.state, made.partial.passes if made.partial else 0))
    assert len(seen) > 5
    with pytest.raises(BudgetError) as refused:
        codec.encode(given, 200, 120, RateTarget(max_bytes=20))
    assert refused.value.reason == "budget_too_small"


def test_weighing_bits_takes_fewer_of_them_and_neighbours_of_the_nearest(
    codec: LatticeCodec,
) -> None:
    given = features(200, 120)
    plain = codec.encode(given, 200, 120)
    steps, plane_of = codec.decode(plain).indices, codec.chains[0].palette.planes
    sizes = [plain.file_bytes]
    for weight in (0.01, 0.05):
        made = codec.encode(given, 200, 120, rate_weight=weight)
        for name, values in codec.decode(made).indices.items():
            assert (np.abs(values - steps[name]) <= 1).all()
            exact = given[SCALE][channels(plane_of[name].spec)] / np.float32(plane_of[name].step)
            assert (np.abs(values - exact) < 1.001).all()
        sizes.append(made.file_bytes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_wrong_features_are_refused(codec: LatticeCodec) -> None:
    given = features(64, 64)[SCALE]
    for broken in ({}, {SCALE: given[:3]}, {SCALE: given[None]}, {SCALE: given * np.nan}):
        with pytest.raises(ValueError, match="features of scale"):
            codec.encode(broken, 64, 64)
    with pytest.raises(ValueError, match="grids"):
        codec.encode({SCALE: given}, 640, 64)
    with pytest.raises(BudgetError):
        codec.encode({SCALE: given}, 64, 64, RateTarget(state=4))


def test_damaged_files_are_refused_or_decode_to_a_true_state(codec: LatticeCodec) -> None:
    whole = codec.encode(features(100, 80), 100, 80)
    part = codec.shorten(whole, whole.file_bytes - 10)
    assert part.partial is not None
    data = [whole.to_bytes(), part.to_bytes()]
    other = codec.encode(features(100, 80, 1), 100, 80).to_bytes()
    known = {s: codec.decode(whole.truncate(s)).indices for s in range(3)}
    foreign = {s: codec.decode(Bitstream.from_bytes(other).truncate(s)).indices for s in range(3)}
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(DAMAGED):
        mutated = mutate(data[int(rng.integers(2))], other, rng)
        try:
            bitstream = Bitstream.from_bytes(mutated, allow_cut=True)
            decoded = codec.decode(bitstream).indices
        except BitstreamError:
            refused += 1
            continue
        wanted = [known[bitstream.state], foreign[bitstream.state]]
        if bitstream.partial is not None:
            wanted = [codec.decode(part).indices]
        assert any(all(np.array_equal(decoded[n], w[n]) for n in w) for w in wanted)
    assert refused > DAMAGED // 2


def test_forged_payloads_with_right_checksums_are_refused_or_canonical(
    codec: LatticeCodec,
) -> None:
    original = codec.encode(features(100, 80), 100, 80)
    rng = np.random.default_rng(4)
    reasons = []
    for _ in range(RESEALED):
        bitstream = Bitstream.from_bytes(reseal(original, rng))
        try:
            decoded = codec.decode(bitstream)
        except BitstreamError as error:
            reasons.append(error.reason)
        else:
            again = codec.encode(decoded.scales, 100, 80, RateTarget(state=bitstream.state))
            assert again.to_bytes() == bitstream.to_bytes()
    assert len(reasons) > RESEALED // 2
    assert set(reasons) <= {"bad_payload", "limit_exceeded"}

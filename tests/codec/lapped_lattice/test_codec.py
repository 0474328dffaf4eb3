"""Rounding is the same in training and in the stream; pictures of it, in tiles and again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from codec.base import PLAIN, FloatArray, Rendering, open_cloud, open_edge, small_bundle
from codec.features import PreparedPhoto
from codec.lapped_lattice import VIVID, reconstruct
from codec.lapped_lattice.contexts import LappedContexts
from codec.lapped_lattice.lattice import LappedPalette, leant, rounded, towards_zero
from codec.lapped_lattice.networks import LITTLE, DecoderConfig, LappedDecoder
from codec.lapped_lattice.repaint import repainted
from codec.lapped_lattice.train.bundle import fit_psnr_model
from codec.lapped_lattice.train.contexts import LAPPED
from codec.lapped_lattice.train.decoders.fit import begin_with
from codec.lapped_lattice.train.networks import Layout
from codec.lapped_lattice.train.recipe import SCALE, LappedRecipe
from codec.lapped_lattice.train.small import SMALL
from codec.lattice_palette.nested.choice import choose
from codec.lattice_palette.train.nested.contexts import plain_contexts
from codec.settings import (
    CONTEXTS_FILE,
    DECODER_FILE,
    PALETTE_FILE,
    FeatureSettings,
    create_bundle,
    with_settings,
)
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import BudgetError, BundleError, TaskError
from shared.targets import RateTarget, Region
from tests.support.contract import picture


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle("lapped-lattice", tmp_path_factory.mktemp("lapped"))


def test_small_values_are_rounded_to_nothing() -> None:
    exact = np.array([-2.6, -1.4, -0.64, -0.1, 0.55, 0.64, 0.66, 1.56, 1.58, 3.0], np.float32)
    assert rounded(exact, 0.15).tolist() == [-3, -1, 0, 0, 0, 0, 1, 1, 2, 3]
    assert rounded(exact, 0).tolist() == [-3, -1, -1, 0, 1, 1, 1, 2, 2, 3]


def test_coarser_values_are_thirds_and_lean_towards_zero() -> None:
    whole = np.array([-9, -8, -3, -2, 0, 2, 3, 5, 6, 26], np.int32)
    assert towards_zero(whole, 1).tolist() == [-3, -2, -1, 0, 0, 0, 1, 1, 2, 8]
    assert towards_zero(whole, 2).tolist() == [-1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert towards_zero(whole, 0).tolist() == whole.tolist()
    assert leant(0, 0.35) == 0
    # One depth up q is 3 q to 3 q + 2: a lean of a half would be the middle.
    assert 3 * (1 + leant(1, 0.5)) == pytest.approx(4)
    assert 9 * (1 + leant(2, 0.5)) == pytest.approx(13)


def test_every_value_below_every_other_can_be_told(bundle: Bundle) -> None:
    """All that a value may become, at all positions of all channels: coded, and read again."""
    edge, other = open_edge(bundle), open_edge(bundle)
    palette = edge.coder.chains[0].palette  # type: ignore[attr-defined]
    rng = np.random.default_rng(4)
    height, width = 80, 96
    for reach in (1, 3, 9, 26):
        scale = recipe_step() * reach
        features = {SCALE: rng.uniform(-scale, scale, (12, 5, 6)).astype(np.float32)}
        prepared = PreparedPhoto(np.zeros((height, width, 3), np.uint8), features)
        finest = edge.encode(prepared)
        for row in palette.states:
            wanted = palette.quantise(features, row.state)
            cut = Bitstream.from_bytes(finest.truncate(row.state).to_bytes())
            found = other.decode(cut)
            for name, values in wanted.items():
                np.testing.assert_array_equal(found.indices[name], values)


@pytest.fixture(scope="module")
def predicting(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle("lapped-lattice", tmp_path_factory.mktemp("predicting"), "streams")


def palette_of(bundle: Bundle) -> LappedPalette:
    settings = FeatureSettings.of(bundle)
    return LappedPalette.from_arrays(
        settings.planes, settings.states, bundle.read_arrays(PALETTE_FILE)
    )


def drawn(rng: np.random.Generator, reach: float) -> dict[str, FloatArray]:
    """Features of up to so many of the finest steps."""
    return {SCALE: rng.uniform(-reach, reach, (12, 5, 6)).astype(np.float32) * recipe_step()}


def test_every_value_can_be_told_from_every_reference(predicting: Bundle) -> None:
    """Values that have nothing to do with the reference's, which is finer or coarser: told, and
    read again."""
    palette, rng = palette_of(predicting), np.random.default_rng(6)
    contexts = LappedContexts.from_arrays(palette, predicting.read_arrays(CONTEXTS_FILE))

    def run(
        state: int, reference: Any, exchange: Callable[[Any], Any], values: Any = None
    ) -> dict[str, Any]:
        told = contexts.open((5, 6), reference)
        if values is not None:
            told.aim(values, palette.depths(state))
        for layer in range(palette.coarsest_state, state - 1, -1):
            told.begin(layer)
            for step in palette.predicted_passes(layer):
                told.run(step, lambda odds: exchange((told, odds)))
        return told.found()[0]

    for reach, before in ((1, 3), (3, 1), (9, 9), (26, 9), (9, 26)):
        for state, there in ((0, 0), (1, 0), (0, 1), (2, 0)):
            depths = {
                spec.name: np.full((5, 6), depth, np.uint8)
                for spec, depth in zip(palette.specs, palette.depths(there), strict=True)
            }
            reference = (palette.quantise(drawn(rng, before), there), depths)
            wanted, _ = choose(palette, drawn(rng, reach), reference, state, 0.0)
            sent: list[Any] = []

            def tell(asked: Any, sent: list[Any] = sent) -> Any:
                sent.append((asked[0].wanted().copy(), asked[1]))
                return sent[-1][0]

            def read(asked: Any, sent: list[Any] = sent) -> Any:
                bits, odds = sent.pop(0)
                np.testing.assert_array_equal(odds, asked[1])
                return bits

            run(state, reference, tell, wanted)
            found = run(state, reference, read)
            assert not sent
            for name, values in wanted.items():
                np.testing.assert_array_equal(found[name], values)


def test_regions_have_all_and_the_rest_has_no_more_than_its_state(predicting: Bundle) -> None:
    """Of key and predicted frames, with a state and with a budget."""
    edge = open_edge(predicting)
    photo, moved = picture(160, 128, 3), picture(160, 128, 3)
    moved[40:90, 20:70] = picture(50, 50, 4)
    regions = (Region(0.4, 0.4, 0.8, 0.9, 0),)
    inside = np.zeros((8, 10), np.bool_)
    inside[3:8, 4:8] = True
    before = edge.decode(edge.encode(photo, RateTarget(state=2), regions=regions))
    for frame, reference in ((photo, None), (moved, before)):
        made = edge.encode(frame, RateTarget(state=2), regions=regions, reference=reference)
        key_frames = [edge.encode(frame, RateTarget(state=state)) for state in (0, 2)]
        found = open_cloud(predicting).decode(made, reference=reference)
        assert (made.reference is None) == (reference is None)
        assert found.state == 0
        cut = edge.coder.cut(found, 2)  # type: ignore[attr-defined]
        if reference is None:
            whole, rest = (edge.decode(one).indices for one in key_frames)
            for name, values in found.indices.items():
                np.testing.assert_array_equal(values[:, inside], whole[name][:, inside])
                outside = cut.indices[name][:, ~inside]
                np.testing.assert_array_equal(outside, rest[name][:, ~inside])
        assert made.file_bytes < key_frames[0].file_bytes
        budget = made.file_bytes + 5
        fitted = edge.encode(
            frame, RateTarget(max_bytes=budget), regions=regions, reference=reference
        )
        assert fitted.file_bytes <= budget


@pytest.fixture(scope="module")
def aiming(predicting: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle with a PSNR model."""
    palette, files = palette_of(predicting), predicting.manifest.files
    photos = [picture(64, 48 + 16 * (n % 2), n) for n in range(26)]
    manifest = with_settings(
        predicting.manifest, psnr_model=fit_psnr_model(predicting, palette, photos)
    )
    contents = {name: predicting.read(name) for name in files}
    return create_bundle(tmp_path_factory.mktemp("aiming"), manifest, contents)


def test_a_psnr_is_aimed_at(predicting: Bundle, aiming: Bundle) -> None:
    edge, worker = open_edge(aiming), open_cloud(aiming).open_reconstructor()
    photo = picture(96, 80, 40)
    reached, states = [], []
    for wanted in (8.0, 14.0, 25.0):
        made = edge.encode(photo, RateTarget(psnr_db=wanted, best_effort=True))
        shown = worker.reconstruct([edge.decode(made)])[0].astype(float)
        reached.append(10 * np.log10(255**2 / np.square(shown - photo).mean()))
        states.append(made.state)
    assert reached[0] >= 8
    assert states == sorted(states, reverse=True)
    assert states[0] > states[-1]
    before = edge.decode(edge.encode(photo, RateTarget(state=0)))
    still = edge.encode(photo, RateTarget(psnr_db=8.0), reference=before)
    assert still.reference is not None
    with pytest.raises(BudgetError) as refused:
        edge.encode(photo, RateTarget(psnr_db=60))
    assert refused.value.reason == "target_unreachable"
    with pytest.raises(BundleError) as unable:
        open_edge(predicting).encode(photo, RateTarget(psnr_db=8))
    assert unable.value.reason == "no_psnr_model"


def test_bits_are_counted_as_they_are_coded(predicting: Bundle) -> None:
    """What training takes deeper values of key frames to cost, and what is coded: the same."""
    palette = palette_of(predicting)
    contexts = plain_contexts(palette, LAPPED)
    seen: dict[str, float] = {}
    bias = {name: one.out_bias.reshape(1, 4, -1) / 32 for name, one in contexts.networks.items()}

    class Counted:
        def wants(self, name: str) -> bool:
            return True

        def __call__(
            self, name: str, inputs: Any, classes: Any, away: FloatArray, above: FloatArray
        ) -> None:
            rows = (torch.from_numpy(part.astype(np.float32)) for part in (away, above))
            odds = torch.from_numpy(bias[name]).float().expand(len(away), -1, -1)
            seen[name] = seen.get(name, 0) + float(LAPPED.bits(name)(odds, *rows).sum())

    picture_of = contexts.open((5, 6), recorder=Counted())
    rng = np.random.default_rng(6)
    picture_of.aim(palette.quantise(drawn(rng, 12), 0), palette.depths(0))
    paid = 0.0

    def exchange(odds: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        nonlocal paid
        bits, chance = picture_of.wanted(), odds / 65536
        paid -= float(np.log2(np.where(bits, chance, 1 - chance)).sum())
        return bits

    for layer in (2, 1, 0):
        picture_of.begin(layer)
        for step in palette.passes(layer):
            picture_of.run(step, exchange)
    assert sum(seen.values()) == pytest.approx(paid, rel=1e-3)
    assert paid > 500


def recipe_step() -> float:
    return LappedRecipe.model_validate(SMALL).step


def test_training_rounds_as_the_stream_does(bundle: Bundle) -> None:
    """Every state's values, of which training has another implementation."""
    recipe = LappedRecipe.model_validate(SMALL)
    palette = palette_of(bundle)
    nested = recipe.nested
    layout = Layout.of(recipe.groups, nested.depths, nested.states, recipe.step)
    # Within all limits: training has none.
    values = np.random.default_rng(2).normal(0, 6 * recipe.step, (12, 6, 7)).astype(np.float32)
    for row, state in enumerate(palette.states):
        whole = palette.quantise({SCALE: values}, state.state)
        depths = {
            spec.name: np.full(values.shape[1:], depth, np.uint8)
            for spec, depth in zip(palette.specs, state.depths, strict=True)
        }
        for plane in palette.planes.values():
            plane.means[:] = 0
        decoded = palette.decode(whole, depths)[SCALE]
        made = layout.round(
            torch.from_numpy(values)[None], torch.tensor([row]), recipe.dead, recipe.lean
        )[0]
        assert (made.numpy() != 0).any()
        np.testing.assert_allclose(made.numpy(), decoded, atol=1e-5)


def test_gradients_pass_through_what_is_told_and_nothing_else() -> None:
    layout = Layout.of((1, 1), (2, 1), ((2, 1), (1, 0)), 0.1)
    values = torch.rand(2, 2, 3, 3, requires_grad=True)
    layout.round(values, torch.tensor([0, 1]), 0.15, 0.35).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad[:, :, 0, 0].tolist() == [[1, 1], [1, 0]]


BOTH = pytest.mark.parametrize("how", [PLAIN, Rendering(VIVID, 3)], ids=["faithful", "vivid"])


@BOTH
def test_tiles_leave_no_seam(
    predicting: Bundle, how: Rendering, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = picture(330, 250, 3)
    latents = open_cloud(predicting).decode(open_edge(predicting).encode(photo))
    whole = open_cloud(predicting).open_reconstructor().reconstruct([latents], how)[0]
    monkeypatch.setattr(reconstruct, "TILE_POSITIONS", 5)
    tiles = open_cloud(predicting).open_reconstructor().reconstruct([latents], how)[0]
    assert np.abs(whole.astype(int) - tiles).max() <= 1
    assert np.abs(whole.astype(int) - tiles).mean() < 0.01


@BOTH
def test_pictures_of_a_batch_are_those_of_one_after_the_other(
    predicting: Bundle, how: Rendering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accelerator makes them at once."""
    edge, worker = open_edge(predicting), open_cloud(predicting).open_reconstructor()
    photos = [picture(90 - seed, 70 + seed, seed) for seed in range(3)]
    photos[1][:] = photos[1][:, :, :1]  # grey
    latents = [edge.decode(edge.encode(photo, RateTarget(state=1))) for photo in photos]
    alone = worker.reconstruct(latents, how)
    monkeypatch.setattr(reconstruct, "TILE_POSITIONS", 3)
    with torch.inference_mode():
        decoder = worker._decoders[how.decoder or "faithful"]  # type: ignore[attr-defined]
        together = worker.together(decoder, latents, how.seed)  # type: ignore[attr-defined]
    for one, other in zip(alone, together, strict=True):
        assert one.shape == other.shape
        assert np.abs(one.astype(int) - other).max() <= 1
        assert np.abs(one.astype(int) - other).mean() < 0.01


def test_a_seed_is_of_what_is_drawn_and_changes_nothing_else(predicting: Bundle) -> None:
    edge, worker = open_edge(predicting), open_cloud(predicting).open_reconstructor()
    latents = [edge.decode(edge.encode(picture(50, 40, 1), RateTarget(state=1)))]
    drawn = [worker.reconstruct(latents, Rendering(VIVID, n))[0] for n in (1, 1, 2, 2**63 - 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    for other in drawn[2:]:
        assert np.abs(drawn[0].astype(int) - other).mean() > 1
    faithful = [worker.reconstruct(latents, Rendering(None, seed))[0] for seed in (1, 2)]
    np.testing.assert_array_equal(faithful[0], faithful[1])
    away = [np.abs(faithful[0].astype(int) - one).mean() for one in drawn]
    assert max(away) < 64  # it is the same picture


def test_what_is_drawn_has_the_spread_that_was_learned() -> None:
    """And none without noise: its mean, which is what the same decoder makes that draws nothing."""
    config = DecoderConfig(channels=4, states=2, width=8, blocks=1, detail_width=6, carried=2)
    plain, sampled = LappedDecoder(config), LappedDecoder(replace(config, sampled=1))
    begin_with(sampled, plain)
    assert sampled.spread is not None
    assert sampled.spread.bias is not None
    with torch.no_grad():
        sampled.colours.copy_(torch.tensor([0, 1, 2, 0]))
        sampled.synthesis.zero_()
        sampled.synthesis[:, :, 8:24, 8:24] = 1 / 16
        sampled.spread.bias.copy_(torch.tensor([LITTLE + 1, -30.0, -30.0, -30.0]))
        sampled.doubts.copy_(torch.tensor([[0.01] * 4, [0.02] * 4]))
        values = torch.zeros(1, 4, 30, 40)
        noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
        for state, doubt in ((0, 0.01), (1, 0.02)):
            still = sampled(values, torch.tensor([state]))
            assert float(still.abs().max()) == 0
            moved = sampled(values, torch.tensor([state]), None, noise)[0, 0, 8::16, 8::16] * 16
            wanted = math.log(1 + math.e) * doubt
            assert float(moved.std()) == pytest.approx(wanted, rel=0.1)


def test_the_same_values_again_are_the_same_picture(bundle: Bundle) -> None:
    edge, worker = open_edge(bundle), open_cloud(bundle).open_reconstructor()
    latents = [edge.decode(edge.encode(picture(50, 40, seed))) for seed in (1, 1, 2)]
    first = worker.reconstruct(latents[:1])[0]
    marked = first.copy()
    marked[0, 0] += 1
    again, other = worker.reconstruct(
        latents[1:], before=[(latents[0], marked), (latents[0], marked)]
    )
    np.testing.assert_array_equal(again, marked)
    np.testing.assert_array_equal(other, worker.reconstruct(latents[2:])[0])


@BOTH
def test_only_what_changed_is_painted_again(predicting: Bundle, how: Rendering) -> None:
    """Some values become others, in two places far apart: the same picture, from less of it."""
    edge, worker = open_edge(predicting), open_cloud(predicting).open_reconstructor()
    photo = picture(960, 800, 1)
    frames = [photo, photo.copy()]
    frames[1][30:50, 40:60] = 255 - photo[30:50, 40:60]
    frames[1][700:720, 900:930] = 0
    first, second = (edge.decode(edge.encode(frame, RateTarget(state=0))) for frame in frames)
    shown = worker.reconstruct([first], how)[0]
    whole = worker.reconstruct([second], how)[0]
    marked = shown.copy()
    marked[400, 480] += 1
    found = worker.reconstruct([second], how, before=[(first, marked)])[0]
    np.testing.assert_array_equal(found[400, 480], marked[400, 480])
    found[400, 480] = whole[400, 480]
    assert np.abs(found.astype(int) - whole).max() <= 1
    assert np.abs(found.astype(int) - whole).mean() < 0.001
    assert np.abs(found.astype(int) - shown).max() > 50
    coarse = edge.decode(edge.encode(frames[1], RateTarget(state=1)))
    np.testing.assert_array_equal(
        worker.reconstruct([coarse], how, before=[(first, marked)])[0],
        worker.reconstruct([coarse], how)[0],
    )


def test_what_is_painted_anew_is_all_that_changes_reach() -> None:
    changed = np.zeros((40, 60), np.bool_)
    assert repainted(changed, 3) == []
    changed[5, 7] = changed[6, 50] = changed[30, 8] = True
    found = repainted(changed, 3)
    assert found is not None
    assert found == [(0, 4, 12, 12), (0, 44, 12, 56), (24, 4, 36, 12)]
    changed[::3, ::3] = True
    assert repainted(changed, 3) is None


def test_a_grey_photo_stays_grey_and_work_can_be_stopped(bundle: Bundle) -> None:
    grey = np.repeat(picture(50, 40)[:, :, :1], 3, 2)
    latents = open_cloud(bundle).decode(open_edge(bundle).encode(grey, RateTarget(state=0)))
    worker = open_cloud(bundle).open_reconstructor()
    made = worker.reconstruct([latents])[0]
    assert (made == made[:, :, :1]).all()
    with pytest.raises(TaskError) as refused:
        worker.reconstruct([latents], should_stop=lambda: True)
    assert refused.value.reason == "cancelled"


def test_a_decoder_that_does_not_fit_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    damaged = create_bundle(
        tmp_path / "a", bundle.manifest, files | {DECODER_FILE: save({"leave": torch.zeros(1)})}
    )
    with pytest.raises(BundleError) as refused:
        open_cloud(damaged).open_reconstructor()
    assert refused.value.reason == "bad_decoder"
    with pytest.raises(TypeError, match="whole numbers by the names"):
        DecoderConfig.from_dict(json.loads('{"channels": 3}'))
    now = DecoderConfig(channels=3, states=2).to_dict()
    assert DecoderConfig.from_dict(now).to_dict() == now
    # As bundles of before say it.
    before = {name: now[name] for name in now if name not in ("sampled", "detail_stride")}
    assert DecoderConfig.from_dict(before).detail_stride == 4
    assert DecoderConfig.from_dict(before).sampled == 0
    for stride in (0, 3, 32):
        with pytest.raises(TypeError, match="power of two"):
            DecoderConfig.from_dict(now | {"detail_stride": stride})


def test_a_palette_without_its_lean_is_refused(bundle: Bundle) -> None:
    settings = FeatureSettings.of(bundle)
    arrays = bundle.read_arrays(PALETTE_FILE)
    name = next(name for name in arrays if name.endswith(".lean"))
    for wrong in (None, np.array(1.5, np.float32), np.array(0.1)):
        changed = {k: v for k, v in arrays.items() if k != name}
        if wrong is not None:
            changed[name] = wrong
        with pytest.raises(BundleError) as refused:
            LappedPalette.from_arrays(settings.planes, settings.states, changed)
        assert refused.value.reason == "bad_palette"

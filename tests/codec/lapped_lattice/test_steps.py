"""The recipe from photos to a bundle, at a tiny size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from codec.base import Pixels, Rendering, open_cloud, open_edge
from codec.kit.psnr import LEAST_PHOTOS
from codec.kit.recipe import open_recipe
from codec.kit.sequences import SequencesPart
from codec.lapped_lattice.networks import SHARED, LappedDecoder
from codec.lapped_lattice.reconstruct import read_decoder
from codec.lapped_lattice.train import small_bundle
from codec.lapped_lattice.train.bundle import RunFiles, with_decoder
from codec.lapped_lattice.train.decoders.fit import begin_with
from codec.lapped_lattice.train.fit import of_parity
from codec.lapped_lattice.train.recipe import LappedRecipe
from codec.lapped_lattice.train.small import SMALL
from codec.lapped_lattice.train.trainer import LappedTrainer, open_fit, trained
from codec.settings import DECODER_FILE, FeatureSettings
from shared.bundle import Bundle
from shared.errors import RecipeError
from shared.targets import RateTarget
from tests.support.contract import picture
from tests.support.real_store import fetched


def quiet(done: int, of: int, figures: Any) -> None:
    """Reports nothing."""


def recipe_with(**fit: Any) -> LappedRecipe:
    contexts = {"stills": 6, "rows": 400, "steps": 60, "batch": 64, "hidden": 8, "width": 8}
    return LappedRecipe.model_validate(
        SMALL | {"fit": SMALL["fit"] | {"measure_every": 1000} | fit, "contexts": contexts}
    )


def run_step(step_name: str, recipe: LappedRecipe, run: Path, **options: Any) -> Any:
    step = next(step for step in LappedTrainer().steps if step.name == step_name)
    return step.run(recipe, run, quiet, **options)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    photos = run / "photos"
    photos.mkdir()
    for seed in range(9):
        Image.fromarray(picture(96, 80, seed)).save(photos / f"{seed}.png")
    run_step("photos", recipe_with(), run, data=photos)
    run_step("start", recipe_with(), run)
    return run


def copied(started: Path, there: Path) -> Path:
    """A run with the results of photos and start."""
    there.mkdir()
    (there / "cache").symlink_to(started / "cache")
    (there / "basis.npz").symlink_to(started / "basis.npz")
    return there


def test_steps_need_the_results_of_those_before(tmp_path: Path) -> None:
    for name in ("start", "fit", "palette", "tables"):
        with pytest.raises(RecipeError) as refused:
            run_step(name, recipe_with(), tmp_path)
        assert refused.value.reason == "step_missing"


def test_the_decoder_becomes_better_than_the_linear_one_it_starts_from(
    started: Path, tmp_path: Path
) -> None:
    run = copied(started, tmp_path / "run")
    few = recipe_with(decoder_steps=60, learning_rate=3e-3)
    figures = run_step("fit", few, run)
    assert figures["done"]
    assert figures["step"] == 60
    assert np.mean(figures["gains_db"]) > 0.02
    more = recipe_with(decoder_steps=61, learning_rate=3e-3)
    again = run_step("fit", more, run)
    assert (again["step"], again["done"]) == (61, True)
    # Features are frozen while the decoder learns alone.
    before, after = trained(few, RunFiles(run)), open_fit(few, RunFiles(started))
    for one, other in zip(before.analysis.parameters(), after.analysis.parameters(), strict=True):
        np.testing.assert_array_equal(one.detach().numpy(), other.detach().numpy())


def decoders(**changes: Any) -> LappedRecipe:
    every = {"crop": 96, "batch": 2, "steps": 4, "learning_rate": 2e-3}
    seen = {"perceptual_weight": 0.4, "detector_weight": 0.1, "classifier_weight": 0.1}
    vivid = every | seen | {"detail_blocks": 2, "flat_weight": 2, "adversarial_weight": 0.1}
    vivid |= {"sampled": 1, "texture_weight": 0.5}
    again = every | {"crop": 80, "relative": True, "blocks": 2, "squared_weight": 1}
    again |= {"absolute_weight": 0, "batch": 4}
    parts = {"vivid": vivid | changes, "faithful": again | changes}
    return LappedRecipe.model_validate(SMALL | {"decoders": parts})


def shown(bundle: Bundle, photo: Pixels, name: str | None = None) -> Pixels:
    """The photo at its finest state, by one of the bundle's decoders."""
    cloud = open_cloud(bundle)
    latents = cloud.decode(open_edge(bundle).encode(photo))
    return cloud.open_reconstructor().reconstruct([latents], Rendering(name))[0]


def test_a_second_decoder_is_trained_on_the_bundles_own_bits_and_put_beside_the_first(
    started: Path, tmp_path: Path
) -> None:
    fetched("squeezenet-1.1", "lpips-squeeze", "ssd-mobilenetv3-backbone", "efficientnet-lite0")
    bundle, run = small_bundle(tmp_path / "bundle"), copied(started, tmp_path / "run")
    where = Path(bundle.origin)
    first = run_step("decoder", decoders(), run, bundle=where)
    assert (first["step"], first["done"]) == (4, True)
    again = run_step("decoder", decoders(steps=24), run, bundle=where)
    assert again["step"] == 24
    (row,) = map(json.loads, (run / "decoder-vivid.jsonl").read_text().splitlines())
    assert row["step"] == 20
    assert {"gain_db", "lpips", "textures", "colour", "adversary"} <= set(row)
    run_step("attach", decoders(steps=24), run, bundle=where, output=tmp_path / "both")
    both = Bundle.load(tmp_path / "both")
    both.verify()
    assert [one.name for one in both.manifest.pictures] == ["faithful", "vivid"]
    for name, entry in bundle.manifest.files.items():
        assert both.manifest.files[name] == entry
    assert both.manifest.files["decoder-vivid.safetensors"].side == "cloud"
    # What both have in common is there once.
    there = set(load(both.read("decoder.safetensors"))) & set(SHARED)
    assert there == set(SHARED)
    assert not set(load(both.read("decoder-vivid.safetensors"))) & there
    photo = picture(80, 64, 3)
    plain = shown(bundle, photo)
    np.testing.assert_array_equal(shown(both, photo, "faithful"), plain)
    assert (shown(both, photo, "vivid") != plain).any()


def test_a_faithful_decoder_that_learned_more_takes_the_place_of_the_first(
    started: Path, tmp_path: Path
) -> None:
    run = copied(started, tmp_path / "run")
    fit = {"decoder_steps": 0}
    run_step("fit", recipe_with(**fit), run)
    run_step("palette", recipe_with(**fit), run)
    run_step("tables", recipe_with(**fit), run)
    run_step("export", recipe_with(**fit), run, output=tmp_path / "linear")
    linear = Bundle.load(tmp_path / "linear")
    recipe, where = decoders(steps=200), Path(linear.origin)
    run_step("decoder", recipe, run, bundle=where, name="faithful")
    run_step("attach", recipe, run, bundle=where, output=tmp_path / "better", name="faithful")
    better = Bundle.load(tmp_path / "better")
    assert [one.name for one in better.manifest.pictures] == ["faithful"]
    assert better.manifest.settings["decoder"]["blocks"] == 2
    photos = [picture(96, 80, seed) for seed in (1, 4, 6)]
    errors = [
        np.mean([np.square(shown(one, p).astype(float) - p).mean() for p in photos])
        for one in (linear, better)
    ]
    assert errors[1] < 0.995 * errors[0]
    learned = read_decoder(better, DECODER_FILE, FeatureSettings.of(better).decoder)
    many = [picture(48, 48, seed) for seed in range(LEAST_PHOTOS)]
    made = with_decoder(linear, "faithful", learned, tmp_path / "measured", photos=many)
    assert len(made.manifest.settings["psnr_model"]["rows"]) == 3


def test_a_decoder_with_more_blocks_begins_as_the_one_it_learns_from(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path)
    known = read_decoder(bundle, DECODER_FILE, FeatureSettings.of(bundle).decoder)
    more = LappedDecoder(replace(known.config, detail_blocks=known.config.detail_blocks + 2))
    begin_with(more, known)
    values = torch.randn(2, known.config.channels, 3, 4)
    state = torch.tensor([0, 2])
    with torch.no_grad():
        assert torch.allclose(more(values, state), known(values, state), atol=1e-5)
    assert not more.synthesis.requires_grad


def test_a_decoder_that_is_not_the_recipes_is_not_trained(started: Path, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    with pytest.raises(RecipeError, match="no decoder 'vivid': none"):
        run_step("decoder", recipe_with(), started, bundle=Path(bundle.origin))


def test_little_is_added_to_values_that_are_known_well(started: Path) -> None:
    recipe = recipe_with()
    job = open_fit(recipe, RunFiles(started))
    doubts, deviations = job.decoder.doubts, job.decoder.deviations
    assert (doubts <= deviations).all()
    finest = job.layout.told & (job.layout.times == 0)
    assert float(doubts[finest].max()) <= 1.001 * recipe.step
    assert (doubts[~job.layout.told] == deviations.expand_as(doubts)[~job.layout.told]).all()


def test_training_together_saves_bits_and_keeps_edges_exact(started: Path, tmp_path: Path) -> None:
    run = copied(started, tmp_path / "run")
    recipe = recipe_with(
        joint_steps=30, decoder_steps=0, analysis_share=0.1, bit_worth=[300, 900, 3000]
    )
    assert run_step("fit", recipe, run)["step"] == 30
    job, untrained = trained(recipe, RunFiles(run)), open_fit(recipe, RunFiles(started))
    moved = [
        float((one - other).detach().abs().max())
        for one, other in zip(
            job.analysis.parameters(), untrained.analysis.parameters(), strict=True
        )
    ]
    assert max(moved) > 1e-5
    kernel = job.decoder.synthesis.detach()
    np.testing.assert_allclose(of_parity(kernel, job.decoder.parity), kernel, atol=1e-6)
    log = (run / "log.jsonl").read_text()
    assert '"bits_per_pixel"' in log


def test_a_run_ends_in_a_bundle_that_both_ends_open(started: Path, tmp_path: Path) -> None:
    run, recipe = copied(started, tmp_path / "run"), recipe_with(decoder_steps=4)
    moving = SequencesPart(photos=5, frames=4)
    recipe = recipe.model_copy(update={"sequences": moving})
    run_step("fit", recipe, run)
    run_step("palette", recipe, run)
    with pytest.raises(RecipeError) as refused:
        run_step("tables", recipe, run)
    assert refused.value.reason == "step_missing"
    assert run_step("sequences", recipe, run) == {"pieces": 5, "frames": 20}
    figures = run_step("tables", recipe, run)
    assert sorted(figures["bits_per_pixel"], reverse=True) == figures["bits_per_pixel"]
    card = tmp_path / "card.md"
    card.write_text("# Small\n")
    run_step("export", recipe, run, output=tmp_path / "bundle", card=card)
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.read("MODEL_CARD.md") == b"# Small\n"
    photo = picture(96, 80, 3)
    edge, worker = open_edge(bundle), open_cloud(bundle).open_reconstructor()
    errors, sizes = [], []
    for state in (0, 1, 2):
        bitstream = edge.encode(photo, RateTarget(state=state))
        made = worker.reconstruct([open_cloud(bundle).decode(bitstream)])[0]
        errors.append(float(np.square(made.astype(float) - photo).mean()))
        sizes.append(bitstream.file_bytes)
    assert errors == sorted(errors)
    assert sizes == sorted(sizes, reverse=True)
    before = edge.decode(edge.encode(photo, RateTarget(state=0)))
    still = edge.encode(photo, RateTarget(state=0), reference=before)
    assert still.reference is not None
    assert edge.decode(still, reference=before).checksum() == before.checksum()
    rates = [row.typical_bits_per_pixel for row in bundle.manifest.states]
    assert rates == sorted(rates, reverse=True)


def test_a_recipe_without_sequences_makes_a_bundle_of_key_frames(
    started: Path, tmp_path: Path
) -> None:
    run, recipe = copied(started, tmp_path / "run"), recipe_with(decoder_steps=1)
    for name in ("fit", "palette", "tables"):
        run_step(name, recipe, run)
    with pytest.raises(RecipeError) as refused:
        run_step("sequences", recipe, run)
    assert refused.value.reason == "bad_recipe"
    run_step("export", recipe, run, output=tmp_path / "bundle")
    assert not open_edge(Bundle.load(tmp_path / "bundle")).predicts


def test_the_packaged_recipe_can_be_read_and_wrong_ones_are_refused() -> None:
    trainer, recipe = open_recipe("fidelity")
    assert isinstance(trainer, LappedTrainer)
    assert isinstance(recipe, LappedRecipe)
    assert sum(recipe.groups) == recipe.transform.channels
    worth = "fit={joint_steps: 9, bit_worth: [1]}"
    for change in ("groups=[3, 8]", "nested.step=null", "nested.depths=[3, 3]", worth):
        with pytest.raises(RecipeError) as refused:
            open_recipe("fidelity", [change])
        assert refused.value.reason == "bad_recipe"

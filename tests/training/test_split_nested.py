"""A bundle of nested lattices from moving material, and the next one built from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from codec.kit.photos import PhotoSource, make_cache
from codec.kit.sequences import SequenceSource, SequencesPart, noised, pieces_of
from codec.lattice_palette.coding import LatticeCodec
from codec.lattice_palette.nested.coding import NestedChain
from codec.lattice_palette.train.adopted import adopted
from codec.lattice_palette.train.nested.lattices import NestedPart, make_nested
from codec.lattice_palette.train.networks.opening import open_network
from codec.lattice_palette.train.recipe import SplitRecipe
from codec.onnx import FeatureExtractor
from shared.bundle import Bundle
from shared.errors import RecipeError
from shared.targets import RateTarget
from training.cli import build_app

SCALE = "bottleneck"
OLD: dict[str, Any] = {
    "codec": "lattice-palette",
    "name": "small",
    "network": "ssd-mobilenetv3-coco",
    "views": {"views": 16, "held_out": 1},
    "model": {
        "latent": 80, "analysis_blocks": 0, "synthesis_width": 8, "synthesis_blocks": 1,
        "rate_width": 8,
    },
    "bits_per_position": [60],
    "start_samples": 16,
    "fit": {"steps": 0},
    "groups": {SCALE: [16, 64]},
    "nested": {
        "depths": [2, 1], "states": [[2, 1], [1, 0]], "step": 3.0, "weights": [0.1, 0.1],
    },
    "tail": {"steps": 2, "batch": 2},
    "contexts": {"views": 8},
    "sequences": {
        "sources": [{"path": "frames"}], "pieces": 2, "frames": 3, "noisy": 1, "photos": 1,
    },
    "nested_contexts": {
        "hidden": 4, "width": 4, "steps": 30, "batch": 16, "stills": 2, "rows": 500,
    },
}  # fmt: skip
FINER = {
    "depths": [3, 2],
    "states": [[3, 2], [2, 1], [1, 0]],
    "step": 1.0,
    "weights": [0.1, 0.1, 0.1],
}
NEW = {**OLD, "version": "2", "nested": FINER, "tail": {"steps": 0}}


def run_json(*arguments: object) -> Any:
    result = CliRunner().invoke(build_app(), [str(a) for a in (*arguments, "--json")])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _prepare(
    folder: Path, photos: dict[str, npt.NDArray[np.uint8]], recipe: dict[str, Any]
) -> list[object]:
    (folder / "train").mkdir(parents=True)
    for name, photo in photos.items():
        Image.fromarray(photo).save(folder / "train" / f"{name}.jpg", quality=95)
    make_cache([PhotoSource(folder / "train")], [], folder / "cache", short_side=240)
    (folder / "frames").mkdir()
    for number in range(9):
        shown = np.roll(photos["chelsea"], 2 * number, 1)
        Image.fromarray(shown).save(folder / "frames" / f"{number}.png")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return ["--recipe", folder / "recipe.yaml", "--run", folder]


@pytest.fixture(scope="module")
def old(photos: dict[str, npt.NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nested") / "old"
    common = _prepare(folder, photos, OLD)
    run_json("views", *common)
    # Three frames of two pieces, each a second time with noise, and a photo made to move.
    assert run_json("sequences", "--data", folder, *common) == {"pieces": 5, "frames": 15}
    for step in ("fit", "palette", "tail", "tables"):
        run_json(step, *common)
    run_json("export", "-o", folder / "bundle", *common)
    return folder


@pytest.fixture(scope="module")
def new(old: Path, photos: dict[str, npt.NDArray[np.uint8]]) -> Path:
    """Built from the old one: its networks, and one depth more of every plane."""
    folder = old.parent / "new"
    common = _prepare(folder, photos, NEW)
    shutil.copytree(old / "views", folder / "views")
    shutil.copy(old / "sequences.npz", folder)
    run_json("fit", "--bundle", old / "bundle", *common)
    for step in ("palette", "tail"):
        run_json(step, *common)
    run_json("tables", "--bundle", old / "bundle", "--jobs", 2, *common)
    run_json("export", "-o", folder / "bundle", *common)
    return folder


def _chain(folder: Path) -> NestedChain:
    (chain,) = LatticeCodec(Bundle.load(folder / "bundle")).chains
    assert isinstance(chain, NestedChain)
    return chain


def _features(folder: Path, photos: dict[str, npt.NDArray[np.uint8]]) -> Any:
    extractor = FeatureExtractor(Bundle.load(folder / "bundle"), threads=1)
    return extractor(np.asarray(Image.fromarray(photos["chelsea"]).resize((320, 320))))


def test_steps_of_groups_may_lie_between_each_others() -> None:
    part = NestedPart.model_validate({**FINER, "step_ratios": [1, 1.5]})
    latents = {SCALE: torch.randn(2, 80, 4, 4)}
    palette = make_nested(part, OLD["groups"], 2.0, latents)
    assert [palette.planes[spec.name].step for spec in palette.specs] == [2, 3]
    (decoded,) = palette.decode(
        palette.quantise({SCALE: latents[SCALE][0].numpy()}, 0),
        {spec.name: np.full((4, 4), spec.depth, np.uint8) for spec in palette.specs},
    ).values()
    away = np.abs(decoded - latents[SCALE][0].numpy()).reshape(80, -1).max(1)
    assert away[:16].max() <= 1 < away[16:].max() <= 1.5
    with pytest.raises(ValueError, match="a ratio of steps for each group"):
        SplitRecipe.model_validate({**OLD, "nested": {**OLD["nested"], "step_ratios": [1]}})


def test_a_bundle_built_from_another_codes_its_states_as_that_does(
    old: Path, new: Path, photos: dict[str, npt.NDArray[np.uint8]]
) -> None:
    """The new state is a layer more, of what the old bundle's networks foretell as before."""
    was, now = _chain(old), _chain(new)
    features = _features(new, photos)
    key, finer = (chain.encode(features, 320, 320, RateTarget(state=0)) for chain in (was, now))
    same = now.encode(features, 320, 320, RateTarget(state=1))
    assert [one.payload for one in same.layers] == [one.payload for one in key.layers]
    assert len(finer.layers) == 3
    error = [
        float(np.square(chain.decode(coded).scales[SCALE] - features[SCALE]).mean())
        for chain, coded in ((was, key), (now, finer))
    ]
    assert error[1] < error[0] / 3
    before, rng = now.decode(finer), np.random.default_rng(2)
    moved = {SCALE: features[SCALE].copy()}
    moved[SCALE][:, 3:9, 4:12] += rng.normal(0, 3, (80, 6, 8)).astype(np.float32)
    predicted = now.encode(moved, 320, 320, RateTarget(state=0), reference=before)
    assert predicted.reference is not None
    assert predicted.file_bytes < finer.file_bytes
    there = now.decode(predicted, reference=before)
    assert there.state == 0
    assert np.square(there.scales[SCALE] - moved[SCALE]).mean() < error[0]


def test_networks_of_depths_that_were_there_stay_and_new_ones_look_further(
    old: Path, new: Path
) -> None:
    was, now = _chain(old).contexts.networks, _chain(new).contexts.networks
    assert set(now) - set(was) == {
        f"{kind}.{SCALE}.{plane}" for kind in ("key", "predicted") for plane in ("0.2", "1.1")
    }
    for name, network in was.items():
        for field, values in network.to_arrays("").items():
            np.testing.assert_array_equal(now[name].to_arrays("")[field], values)
    for name in set(now) - set(was):
        assert np.abs(now[name].enter).sum(), f"{name} was fitted to nothing"


def test_the_tail_is_the_old_one_or_a_share_of_the_way_to_it(old: Path, new: Path) -> None:
    bundles = [Bundle.load(folder / "bundle") for folder in (old, new)]
    values = np.random.default_rng(0).normal(0, 5, (1, 80, 20, 20)).astype(np.float32)
    found = []
    for bundle, state in zip(bundles, (0, 1), strict=True):
        session = ort.InferenceSession(bundle.read("tail.onnx"))
        inputs = {SCALE: values, "state": np.array([state])}
        found.append(session.run(["scores"], inputs)[0])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert bundles[0].read("extractor.onnx") == bundles[1].read("extractor.onnx")
    recipe = SplitRecipe.model_validate(NEW)
    own = [value.clone() for value in open_network(recipe).tail_parameters()]
    ways = []
    for share in (0.0, 0.5, 1.0):
        network = open_network(recipe)
        model = adopted(bundles[0], network, recipe.model, 3, share)
        pairs = zip(own, network.tail_parameters(), strict=True)
        ways.append(sum(float((b - a).abs().sum()) for a, b in pairs))
        assert model.states == 3
    assert ways[0] == 0 < ways[2]
    assert ways[1] == pytest.approx(ways[2] / 2, rel=1e-3)


def test_what_is_no_part_of_the_recipe_cannot_be_built_from(old: Path) -> None:
    bundle, recipe = Bundle.load(old / "bundle"), SplitRecipe.model_validate(NEW)
    with pytest.raises(RecipeError, match="more than 1 states") as refused:
        adopted(bundle, open_network(recipe), recipe.model, 1)
    assert refused.value.reason == "bad_bundle"
    other = recipe.model.model_copy(update={"synthesis_width": 9})
    with pytest.raises(RecipeError, match="has no model"):
        adopted(bundle, open_network(recipe), other, 3)


def test_noise_is_a_sensors_and_another_on_every_picture(tmp_path: Path) -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    dark = np.full((64, 64, 3), 16, np.uint8)
    rng = np.random.default_rng(1)
    first, second, third = noised([grey, grey, dark], rng)
    assert 1 < first.std() < 8
    assert not np.array_equal(first, second)
    assert third.std() < first.std()
    for number in range(4):
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
    source = SequenceSource(path=".")
    part = SequencesPart(sources=(source,), pieces=2, frames=2, noisy=2)
    assert [one[0].std() > 0 for one in pieces_of(source, tmp_path, part)] == [False, True]

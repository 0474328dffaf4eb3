"""From photos to a feature bundle, run for real on a small scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from codec.kit.photos import PhotoSource, make_cache
from codec.kit.recipe import open_recipe
from codec.lattice_palette.coding import LatticeCodec
from codec.lattice_palette.train.bottleneck import load_model, tail_outputs
from codec.lattice_palette.train.lattices import LatticeQuantiser
from codec.lattice_palette.train.recipe import SplitRecipe
from codec.lattice_palette.train.trainer import SplitFiles, open_network, palettes_of
from codec.lattice_palette.train.views import Views, fitted
from codec.settings import FeatureSettings
from codec.tails import open_tails
from shared.bundle import Bundle
from shared.errors import RecipeError
from shared.targets import RateTarget
from training.cli import build_app

SCALE = "bottleneck"
RECIPE = {
    "codec": "lattice-palette",
    "name": "small",
    "network": "ssd-mobilenetv3-coco",
    "views": {"views": 16, "held_out": 1},
    "model": {
        "latent": 8, "analysis_width": 8, "analysis_blocks": 1, "synthesis_width": 8,
        "synthesis_blocks": 1, "rate_width": 8,
    },
    "bits_per_position": [24, 12],
    "start_samples": 16,
    "fit": {"steps": 3, "batch": 2},
    "groups": {SCALE: [2, 6]},
    "chains": [{"point": 0, "step": 1.0, "left_out": [0, 1]}, {"point": 1, "step": 2.0}],
    "tail": {"steps": 3, "batch": 2, "bf16": False},
    "contexts": {"views": 8, "hidden": 4, "width": 4, "steps": 60, "batch": 4},
}  # fmt: skip


def recipe_of(which: str | Path) -> SplitRecipe:
    recipe = open_recipe(which)[1]
    assert isinstance(recipe, SplitRecipe)
    return recipe


def run_json(*arguments: object) -> Any:
    result = CliRunner().invoke(build_app(), [str(a) for a in (*arguments, "--json")])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def run(photos: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    (folder / "train").mkdir()
    for name, photo in photos.items():
        Image.fromarray(photo).save(folder / "train" / f"{name}.jpg", quality=95)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    make_cache([PhotoSource(folder / "train")], [], folder / "cache", short_side=240)
    common = ("--recipe", folder / "recipe.yaml", "--run", folder)
    assert run_json("views", *common) == {"views": 17, "held_out": 1}
    steps = run_json("fit", *common)["steps_of_points"]
    assert steps == sorted(steps)
    run_json("palette", *common)
    run_json("tail", *common)
    sizes = run_json("tables", *common)
    assert sizes["networks"][0] > sizes["networks"][1]
    run_json("export", "-o", folder / "bundle", *common)
    return folder


def test_the_bundle_codes_photos_and_its_tail_takes_what_is_decoded(
    run: Path, photos: dict[str, np.ndarray]
) -> None:
    bundle = Bundle.load(run / "bundle")
    settings = FeatureSettings.of(bundle)
    assert [len(states) for _, states in settings.chain_parts] == [2, 1]
    assert bundle.manifest.starts == (1, 2)
    codec, (tail,) = LatticeCodec(bundle), open_tails(bundle).values()
    photo = photos["chelsea"]
    height, width = photo.shape[:2]
    placement = settings.placement(width, height)
    assert placement is not None
    session = ort.InferenceSession(bundle.read("extractor.onnx"))
    (values,) = session.run([SCALE], {"image": placement.apply(photo)})
    assert values.shape == (8, 20, 20)
    sizes = []
    for state in range(3):
        coded = codec.encode({SCALE: values}, width, height, RateTarget(state=state))
        latents = codec.decode(coded)
        assert latents.state == state
        (result,) = tail.run([latents])
        assert result.task == "detection"
        sizes.append(coded.file_bytes)
    assert sizes[0] > sizes[1]
    assert "Apache-2.0" in bundle.read("NOTICE.md").decode()


def test_both_files_compute_what_was_trained(run: Path, photos: dict[str, np.ndarray]) -> None:
    bundle = Bundle.load(run / "bundle")
    recipe = recipe_of(run / "recipe.yaml")
    files = SplitFiles(run)
    network = open_network(recipe)
    model = load_model(files.tail, network)
    picture = fitted(photos["china"], 320, 320, "stretch").copy()
    with torch.no_grad():
        head = network.head(torch.from_numpy(picture).permute(2, 0, 1)[None].float())
        latents = model.latents(head)
    edge = ort.InferenceSession(bundle.read("extractor.onnx"))
    (values,) = edge.run([SCALE], {"image": picture})
    np.testing.assert_allclose(values, latents[SCALE][0].numpy(), atol=1e-3)
    codec = LatticeCodec(bundle)
    cloud = ort.InferenceSession(bundle.read("tail.onnx"))
    for palette in palettes_of(recipe, files):
        for row in palette.states:
            colours = LatticeQuantiser(palette)({SCALE: torch.from_numpy(values)[None]}, row.state)
            coded = codec.encode({SCALE: values}, 320, 320, RateTarget(state=row.state))
            decoded = codec.decode(coded).scales[SCALE]
            np.testing.assert_array_equal(colours[SCALE][0].numpy(), decoded)
            state = torch.tensor([row.state])
            with torch.no_grad():
                wanted = network.finish(tail_outputs(model, network, colours, state))
            inputs = {SCALE: decoded[None], "state": state.numpy()}
            for ours, theirs in zip(cloud.run(["boxes", "scores"], inputs), wanted, strict=True):
                # Weights are kept as float16.
                np.testing.assert_allclose(ours, theirs.numpy(), atol=0.02)


def test_views_held_out_are_whole_photos_and_never_trained_on(run: Path) -> None:
    views = Views(run / "views")
    assert (len(views), views.held_out) == (17, 1)
    assert views.trained[0] == 1
    outputs = views.outputs(np.array([0]))
    assert outputs["logits"].shape == (1, 2034, 80)


def test_a_step_before_its_time_says_which_is_missing(run: Path, tmp_path: Path) -> None:
    words = ["palette", "--recipe", run / "recipe.yaml", "--run", tmp_path]
    result = CliRunner().invoke(build_app(), [str(word) for word in words])
    assert result.exit_code != 0
    assert "run the fit step first" in result.output


def test_a_network_that_nobody_knows_is_refused() -> None:
    with pytest.raises(RecipeError, match="no network"):
        open_network(SplitRecipe.model_validate({**RECIPE, "network": "none"}))


def test_the_packaged_recipe_is_valid() -> None:
    recipe = recipe_of("detect")
    assert recipe.name == "detect"
    assert recipe.points_of_states() == [0] * 7
    assert recipe.nested is not None
    assert recipe_of("classify").points_of_states() == [0] * 5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"groups": {SCALE: [2, 5]}}, "are not 8"),
        ({"chains": [{"point": 2}]}, "no point 2"),
        ({"chains": [{"point": 0, "left_out": [0, 2]}]}, "leave out"),
        ({"chains": [{"point": 0, "left_out": [1, 0]}]}, "leave out"),
    ],
)
def test_groups_and_chains_must_fit(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **change}))
    with pytest.raises(RecipeError, match=problem):
        recipe_of(tmp_path / "recipe.yaml")

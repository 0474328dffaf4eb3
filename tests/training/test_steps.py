"""The steps from photos to a bundle, run for real on a small scale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

import codec
from codec.kit.photos import PhotoSource, difference_hash, make_cache
from codec.kit.recipe import open_recipe
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.errors import RecipeError
from tests.support.small_recipe import RECIPE
from training.cli import build_app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments])


def run_json(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def data(photos: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("train", "held-out"):
        (folder / name).mkdir()
    for name, photo in photos.items():
        where = "held-out" if name == "rocket" else "train"
        Image.fromarray(photo).save(folder / where / f"{name}.jpg", quality=95)
    # The evaluation photo again, in another size and quality: it must not be trained on.
    smaller = Image.fromarray(photos["rocket"]).resize((320, 213))
    smaller.save(folder / "train" / "copy-of-rocket.jpg", quality=60)
    (folder / "train" / "broken.jpg").write_bytes(b"no photo")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_folder = tmp_path_factory.mktemp("run")
    common = ("--recipe", data / "recipe.yaml", "--run", run_folder)
    index = run_json("photos", "--data", data, *common)
    assert index["photos"] == 5
    assert any("broken.jpg" in line for line in index["left_out"])
    assert any("copy-of-rocket" in line for line in index["left_out"])
    # Stopped half-way, fit goes on where it was.
    first = run_json("fit", *common, "--no-perceptual", "--max-minutes", "0.0001")
    assert first["done"] is False
    second = run_json("fit", *common, "--no-perceptual")
    assert (second["done"], second["step"]) == (True, 80)
    return run_folder


def common(data: Path, trained: Path) -> tuple[object, ...]:
    return ("--recipe", data / "recipe.yaml", "--run", trained)


def test_the_steps_make_a_bundle_that_codes_photos(
    data: Path, trained: Path, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    costs = run_json("palette", *common(data, trained))["merge_cost_fine_to_coarse"]
    assert [len(row) for row in costs.values()] == [5, 3]
    figures = run_json("tables", *common(data, trained))
    rates = figures["held_out_bits_per_pixel"]["networks"]
    assert rates == sorted(rates, reverse=True)
    exported = run_json("export", "-o", tmp_path / "bundle", *common(data, trained))
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.id == exported["id"]
    sizes = EdgeEncoder(bundle).encode(photos["chelsea"]).cumulative_bytes()
    assert list(sizes) == [3, 2, 1, 0]
    evaluated = run_json(
        "evaluate", data / "held-out", "--bundle", tmp_path / "bundle", "--side", 128,
        "-o", tmp_path / "curves", "--metrics", "pixels", "--fresh",
    )  # fmt: skip
    ours = [row for row in evaluated["averages"] if row["codec"] == "featherwire"]
    assert [row["knob"] for row in ours] == [3, 2, 1, 0]
    assert all(5 < row["psnr"] < 40 for row in ours)
    assert {row["codec"] for row in evaluated["averages"]} >= {"featherwire", "jpeg", "webp"}
    assert "| featherwire | 0 |" in (tmp_path / "curves" / "table.md").read_text()


def test_training_again_with_the_same_seed_gives_the_same_weights(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    again = tmp_path / "again"
    (again / "cache").mkdir(parents=True)
    for file in (trained / "cache").iterdir():
        (again / "cache" / file.name).symlink_to(file)
    for name in ("a", "b"):
        target = tmp_path / name
        target.mkdir()
        (target / "cache").symlink_to(trained / "cache")
        run_json(
            "fit", "--recipe", data / "recipe.yaml", "--run", target, "--no-perceptual",
            "--set", "fit.joint_steps=12", "--set", "fit.decoder_steps=0",
        )  # fmt: skip
    first, second = (load_file(tmp_path / n / "checkpoint.safetensors") for n in "ab")
    assert all(bool((first[key] == second[key]).all()) for key in first)


def test_the_fit_step_runs_alone_without_what_an_accelerator_machine_lacks(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    """The fit step with a plan, in a Python where pydantic and friends are missing."""
    run_json("plan", "-o", tmp_path / "plan.json", "--recipe", data / "recipe.yaml")
    (tmp_path / "cache").symlink_to(trained / "cache")
    missing = ("pydantic", "diffusers", "compressai", "torchvision", "typer")
    code = (
        "import sys, runpy\n"
        f"for name in {missing!r}: sys.modules[name] = None\n"
        "runpy.run_module('codec.markov_palette.train.fit', run_name='__main__', alter_sys=True)\n"
    )
    words = ["plan.json", "--run", ".", "--max-minutes", "0.05"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "checkpoint.safetensors").exists()


def test_fitting_brings_pictures_nearer(trained: Path) -> None:
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert log[-1]["l1"] < log[0]["l1"]


def test_a_step_without_its_inputs_says_which_step_comes_first(data: Path, tmp_path: Path) -> None:
    arguments = ("--recipe", data / "recipe.yaml", "--run", tmp_path)
    for step, missing in (("fit", "photos"), ("palette", "fit"), ("tables", "fit")):
        result = run(step, *arguments)
        assert result.exit_code == 1
        assert f"run the {missing} step first" in result.stderr
    result = run("export", "-o", tmp_path / "b", *arguments)
    assert "run the tables step first" in result.stderr
    assert run("photos", "--data", tmp_path / "nowhere", *arguments).exit_code == 1


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"surprise": 1}, "surprise"),
        ({"states": [[5, 3], [5]]}, "depth per plane"),
        ({"states": [[4, 3]]}, "full depth"),
        ({"fit": {"crop": 50}}, "fit.crop"),
        ({"photos": {"sources": []}}, "photos.sources"),
    ],
)
def test_a_bad_recipe_is_refused_and_says_where(
    tmp_path: Path, change: dict[str, Any], where: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **change}))
    with pytest.raises(RecipeError, match=where):
        open_recipe(path)


def test_a_recipe_names_a_codec_that_there_is(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "codec": "none"}))
    with pytest.raises(RecipeError, match="codec 'none' is unknown"):
        open_recipe(path)
    path.write_text(yaml.safe_dump({key: RECIPE[key] for key in RECIPE if key != "codec"}))
    with pytest.raises(RecipeError, match="a recipe names its codec"):
        open_recipe(path)


def test_the_recipes_of_all_codecs_can_be_followed() -> None:
    brought = Path(codec.__file__).parent.glob("*/train/recipes/*.yaml")
    names_of_recipes = sorted(path.stem for path in brought)
    assert {"picture", "picture-gpu", "detect", "classify"} <= set(names_of_recipes)
    for name in names_of_recipes:
        trainer, recipe = open_recipe(name)
        assert isinstance(recipe, trainer.recipe)
        listed = run_json("steps", "--recipe", name)["steps"]
        names = [row["step"] for row in listed]
        assert all(reads in names for row in listed for reads in row["reads"])
        written = names.index("export")
        for row in listed[written + 1 :]:  # what is done to a bundle that is there
            assert set(row["reads"]) <= set(names[written:])
            assert row["reads"]


def test_changes_of_a_recipe_are_checked_like_the_recipe(tmp_path: Path) -> None:
    _, recipe = open_recipe(None, ["fit.batch=3", "psnr_photos=7"])
    assert (recipe.model_dump()["fit"]["batch"], recipe.model_dump()["psnr_photos"]) == (3, 7)
    for wrong in ("fit.batch=0", "fit.surprise=1", "fit.batch", "name.inner=1"):
        with pytest.raises(RecipeError):
            open_recipe(None, [wrong])


def test_a_step_has_its_own_help_and_a_word_that_is_no_step_is_wrong_usage() -> None:
    shown = run("fit", "--recipe", "picture", "--help")
    assert shown.exit_code == 0
    assert "--perceptual" in shown.output
    shown = run("tail", "--recipe", "detect", "--help")
    assert "--max-minutes" in shown.output
    assert run("tail", "--recipe", "picture").exit_code == 2
    assert run("nothing").exit_code == 2
    missing = run("fit", "--recipe", "no-such-recipe", "--json")
    assert missing.exit_code == 1
    assert "not_found" in missing.output


def test_what_is_no_recipe_is_refused(tmp_path: Path) -> None:
    for text in ("[1, 2]", "{", "!!python/object/apply:os.system ['true']"):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(RecipeError):
            open_recipe(tmp_path / "r.yaml")
    with pytest.raises(RecipeError):
        open_recipe(tmp_path / "missing.yaml")


def test_every_seventh_person_is_kept_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for person in "ABCDEFGHIJ":
        for shot in (1, 2):
            pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{person}_{shot}.png")
    source = PhotoSource(tmp_path, group=r"([A-Z])_\d", hold_out_every=7)
    index = make_cache([source], [], tmp_path / "cache", short_side=64)
    kept = {entry["name"][0] for entry in index["photos"]}
    assert kept == set("ABCDEFGHIJ") - {"A", "H"}


def test_of_a_source_of_weight_0_nothing_is_drawn(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((80, 80, 3), 99, np.uint8)).save(tmp_path / name / "x.png")
    sources = [PhotoSource(tmp_path / "a"), PhotoSource(tmp_path / "b", weight=0)]
    index = make_cache(sources, [], tmp_path / "cache", short_side=64)
    assert [photo["weight"] for photo in index["photos"]] == [1.0]


def test_the_difference_hash_knows_a_photo_again(photos: dict[str, np.ndarray]) -> None:
    hashes = {name: difference_hash(photo) for name, photo in photos.items()}
    for name, photo in photos.items():
        smaller = np.asarray(Image.fromarray(photo).resize((200, 150)))
        distances = {n: (difference_hash(smaller) ^ h).bit_count() for n, h in hashes.items()}
        assert min(distances, key=lambda n: distances[n]) == name
        assert distances[name] <= 6

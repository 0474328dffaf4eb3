"""The fit step with feature matching and with textures: used, logged, and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests.support.real_store import fetched
from tests.support.small_recipe import RECIPE
from training.cli import build_app


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(build_app(), [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.fixture(scope="module")
def cached(photos: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the photo cache of four photos."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "train").mkdir()
    (folder / "held-out").mkdir()
    for name in ("astronaut", "chelsea", "china", "flower"):
        Image.fromarray(photos[name]).save(folder / "train" / f"{name}.jpg", quality=95)
    recipe(folder / "recipe.yaml")
    run("photos", "--data", folder, "--recipe", folder / "recipe.yaml", "--run", folder / "run")
    return folder / "run"


def recipe(path: Path, **weights: float) -> Path:
    fit = {**RECIPE["fit"], "joint_steps": 24, "decoder_steps": 16, **weights}
    path.write_text(yaml.safe_dump({**RECIPE, "fit": fit}))
    return path


def log_of(folder: Path) -> dict[int, dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in rows}


@pytest.mark.parametrize("name", ["detector", "classifier"])
def test_feature_losses_join_late_and_stay_for_the_decoder(
    cached: Path, tmp_path: Path, name: str
) -> None:
    fetched("ssd-mobilenetv3-backbone", "efficientnet-lite0")
    (tmp_path / "cache").symlink_to(cached / "cache")
    weights = {f"{name}_weight": 0.1, "features_from": 0.9}
    words = ("--recipe", recipe(tmp_path / "r.yaml", **weights), "--run", tmp_path)
    run("fit", *words, "--no-perceptual")
    log = log_of(tmp_path)
    assert name not in log[20]
    assert log[40][name] > 0


def test_the_texture_loss_needs_labels_and_ends_with_the_joint_stage(
    cached: Path, tmp_path: Path
) -> None:
    fetched("efficientnet-lite0")
    (tmp_path / "cache").symlink_to(cached / "cache")
    words = ("--recipe", recipe(tmp_path / "r.yaml", texture_weight=0.004), "--run", tmp_path)
    assert "run the texture step first" in run("fit", *words, "--no-perceptual", code=1)
    run("texture", *words, "--depth", 2)
    run("fit", *words, "--no-perceptual")
    log = log_of(tmp_path)
    assert log[20]["texture"] > 0
    assert "texture" not in log[40]


def test_a_run_without_them_resumes_with_them(cached: Path, tmp_path: Path) -> None:
    """Nothing that they train is in a checkpoint."""
    fetched("ssd-mobilenetv3-backbone")
    (tmp_path / "cache").symlink_to(cached / "cache")
    plain = ("--recipe", recipe(tmp_path / "plain.yaml"), "--run", tmp_path)
    run(
        "fit",
        *plain,
        "--no-perceptual",
        "--set",
        "fit.joint_steps=20",
        "--set",
        "fit.decoder_steps=0",
    )
    words = ("--recipe", recipe(tmp_path / "r.yaml", detector_weight=0.15, features_from=0))
    more = ("--no-perceptual", "--set", "fit.joint_steps=40", "--set", "fit.decoder_steps=0")
    run("fit", *words, "--run", tmp_path, *more)
    assert "detector" not in log_of(tmp_path)[20]
    assert log_of(tmp_path)[40]["detector"] > 0

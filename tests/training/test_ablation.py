"""What a palette's nodes tell of textures, and the comparison of short runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import normalized_mutual_info_score
from typer.testing import CliRunner

from codec.markov_palette.train.checks import normalised_mutual_information
from tests.support.real_store import fetched
from tests.support.small_recipe import RECIPE
from training.cli import build_app


@given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=2, max_size=80))
def test_mutual_information_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    ours = normalised_mutual_information(first, second)
    if len(set(first)) == len(set(second)) == 1:
        assert ours == 0  # scikit-learn calls two constant labellings alike
    else:
        assert ours == pytest.approx(normalized_mutual_info_score(first, second), abs=1e-9)


def test_equal_labellings_tell_all_and_independent_ones_nothing() -> None:
    first = np.arange(4000) % 8
    assert normalised_mutual_information(first, 7 - first) == pytest.approx(1)
    shuffled = np.random.default_rng(0).permutation(first)
    assert normalised_mutual_information(first, shuffled) < 0.02


def run(*words: object) -> str:
    result = CliRunner().invoke(build_app(), [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_two_values_of_a_setting_are_trained_and_compared(
    photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    fetched("efficientnet-lite0")
    for folder in ("train", "held-out"):
        (tmp_path / folder).mkdir()
    for name, photo in photos.items():
        where = "held-out" if name in ("rocket", "coffee") else "train"
        Image.fromarray(photo).save(tmp_path / where / f"{name}.jpg", quality=95)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    common = ("--recipe", recipe, "--run", tmp_path / "run")
    run("photos", "--data", tmp_path, *common)
    run("texture", *common, "--depth", 3, "--sample", 4)
    document = json.loads(
        run(
            "ablate", tmp_path / "held-out", "-o", tmp_path / "out", *common,
            "--setting", "squared_weight", "--value", 0, "--value", 20, "--no-perceptual",
            "--set", "fit.joint_steps=24", "--set", "fit.decoder_steps=4", "--side", 160,
            "--metrics", "pixels",
            "--set", "tables.steps=8", "--json",
        )
    )  # fmt: skip
    assert list(document["variants"]) == ["squared_weight 0", "squared_weight 20"]
    assert len(set(document["variants"].values())) == 2
    rows = document["averages"]
    assert {row["codec"] for row in rows} == set(document["variants"])
    assert all(5 < row["psnr"] < 40 and row["bits_per_pixel"] > 0 for row in rows)
    assert {row["metric"] for row in document["against_first"]["squared_weight 20"]} >= {"psnr"}
    for planes in document["meaning"].values():
        assert set(planes) == {"s0", "t0"}
        assert all(0 <= value <= 1 for values in planes.values() for value in values)
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert "| squared_weight 20 | psnr |" in text
    assert "Normalised mutual information" in text


def test_an_ablation_needs_two_values_and_photos(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    words = ["ablate", str(tmp_path / "photos"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(build_app(), [*words, "--run", str(tmp_path)])
    assert result.exit_code == 1
    assert "run the photos step first" in result.stderr

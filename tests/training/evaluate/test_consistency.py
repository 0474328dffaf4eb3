"""What reconstructions keep of what was sent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from tests.support.tiny_bundle import make_tiny_bundle
from training.cli import build_app


def test_sampled_latents_always_merge_to_what_was_received(
    photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    for name in ("coffee", "chelsea"):
        Image.fromarray(photos[name][:96, :128]).save(tmp_path / f"{name}.png")
    result = CliRunner().invoke(
        build_app(),
        [
            "consistency", str(tmp_path / "coffee.png"), str(tmp_path / "chelsea.png"),
            "--bundle", str(tmp_path / "bundle"), "--json",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["states"]
    assert [row["state"] for row in rows] == list(range(1, bundle.manifest.coarsest_state + 1))
    for row in rows:
        assert row["photos"] == 2
        assert row["latents"] == 1.0
        # The tiny networks were never trained: their pictures say something else.
        assert 0 <= row["vivid"] < 1
        assert 0 <= row["faithful"] < 1

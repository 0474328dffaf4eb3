"""Times and the strip of states: every stage is there, and pictures are what the bundle gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.photos import write_strip
from benchmarks.speed.times import REFERENCE, repaint_speeds, repaint_table, speed_table, speeds
from shared.bundle import Bundle
from tests.support.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


def test_every_stage_of_the_encoder_is_timed_beside_avif(
    bundle: Bundle, photos: dict[str, np.ndarray]
) -> None:
    pixels = np.ascontiguousarray(photos["coffee"][:128, :160])
    rows = {row["job"].strip(): row for row in speeds(bundle, pixels, rounds=3)}
    stages = [name.split(" (")[0] for name in rows if name.startswith("of it ")]
    assert [name.split(",")[0] for name in stages] == [
        "of it pad", "of it network", "of it quantise", "of it contexts and coding",
    ]  # fmt: skip
    assert rows[REFERENCE]["relative_to_avif_encode"] == 1
    assert rows["of it network (fp32)"]["milliseconds"] > 0
    table = speed_table(list(rows.values()), pixels)
    assert "| 160x128, one thread |" in table
    assert table.count("\n") == len(rows) + 2


def test_pictures_that_changed_in_part_are_timed_and_compared(
    bundle: Bundle, photos: dict[str, np.ndarray]
) -> None:
    pixels = np.ascontiguousarray(photos["coffee"][:128, :160])
    said: list[str] = []
    rows = repaint_speeds(bundle, pixels, said.append, rounds=1)
    assert [row["job"] for row in rows] == [
        "whole", "nothing", "10%, a corner", "10%, the midst", "50%, a corner", "50%, the midst",
    ]  # fmt: skip
    assert all(row["equal"] for row in rows)
    assert len(said) == 2 * len(rows), "before every picture, of one round and that before it"
    assert rows[1]["relative_to_whole"] < 0.5
    assert repaint_table(rows, pixels).count("| yes |") == len(rows)


def test_the_strip_shows_the_original_and_every_state(
    bundle: Bundle, photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    photo = np.ascontiguousarray(photos["chelsea"][:160, :192])
    pixels = photo[32:128, 20:148]
    write_strip(bundle, photo, (20, 32, 148, 128), tmp_path / "strip.webp")
    assert (tmp_path / "strip.webp").stat().st_size <= 150_000
    sheet = np.asarray(Image.open(tmp_path / "strip.webp").convert("RGB")).astype(int)
    cells = 1 + len(bundle.manifest.states)
    rows = -(-cells // 4)
    assert sheet.shape[1] == 4 * 134 - 6
    assert sheet.shape[0] == rows * (96 + 18 + 6) - 6
    first = sheet[18 : 18 + 96, :128]
    assert np.abs(first - pixels).mean() < 6  # the original, but for WebP

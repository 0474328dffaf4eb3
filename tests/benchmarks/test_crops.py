"""The sheet of crops: ours beside the rival's best file of no more bytes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.cards.crops import CROPS, RATES, SIDE, versions, write_crops
from benchmarks.photos import write_photos
from tests.support.tiny_bundle import make_tiny_bundle
from training.evaluate.subjects import Halves, PictureStates


def test_a_sheet_has_a_row_a_crop_and_equal_bytes(
    tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    each = len(bundle.manifest.pictures)
    known = {"cat": np.ascontiguousarray(photos["chelsea"])}
    said = write_crops(bundle, known, tmp_path / "crops.webp")
    assert (tmp_path / "crops.webp").stat().st_size <= 250_000
    sheet = np.asarray(Image.open(tmp_path / "crops.webp").convert("RGB"))
    assert sheet.shape[:2] == (SIDE + 30, (1 + (each + 1) * len(RATES)) * (SIDE + 6) - 6)
    crop = next(one for one in CROPS if one.photo == "cat")
    window = known["cat"][crop.top : crop.top + SIDE, crop.left : crop.left + SIDE]
    assert np.abs(sheet[30:, :SIDE].astype(int) - window).mean() < 6  # the original, but for WebP
    sizes = [int(re.findall(r"(\d+) bytes", line)[0]) for line in said]
    assert len(sizes) == (each + 1) * len(RATES)
    for place in range(0, len(sizes), each + 1):
        *ours, theirs = sizes[place : place + each + 1]
        assert len(set(ours)) == 1, "decoders of the same bits"
        assert theirs <= ours[0] or said[place + each].endswith("its least")


def test_a_rival_that_cannot_be_so_small_says_so(
    tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    states = [PictureStates(Halves(make_tiny_bundle(tmp_path / "tiny")))]
    small = np.ascontiguousarray(photos["chelsea"][:64, :64])
    labels = [label for label, _ in versions(states, small)]
    assert labels[1].endswith("its least")


@pytest.mark.parametrize("crop", CROPS, ids=lambda crop: crop.label)
def test_crops_lie_in_their_photos(crop: object, tmp_path: Path) -> None:
    found = {path.stem: path for path in write_photos(tmp_path, lambda text: None)}
    with Image.open(found[crop.photo]) as photo:  # type: ignore[attr-defined]
        assert crop.left + SIDE <= photo.width  # type: ignore[attr-defined]
        assert crop.top + SIDE <= photo.height  # type: ignore[attr-defined]

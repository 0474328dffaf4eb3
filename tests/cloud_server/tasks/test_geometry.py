"""Crops, tiles, suppression and pasting, against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cloud_server.tasks.geometry import SquareCrop, paste_mask
from cloud_server.tasks.landmarks import tiles
from shared.results import Box, decode_mask, encode_mask, nms


def ramp(height: int, width: int) -> np.ndarray:
    """Red rises by one a column, green by one a row."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.arange(width)
    picture[..., 1] = np.arange(height)[:, None]
    return picture


@pytest.mark.parametrize("side", [32, 48, 64, 97, 130, 200])
@pytest.mark.parametrize("angle", [0.0, 0.4, -1.3])
def test_a_crop_shows_the_pixels_that_to_picture_names(side, angle):
    picture = ramp(250, 250)
    crop = SquareCrop(x=127.3, y=120.8, side=side, angle=angle)
    size = 32
    cut = crop.cut(picture, size)
    steps = (np.arange(size) + 0.5) / size
    unit = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    where = crop.to_picture(unit).reshape(size, size, 2)
    # Away from the border, where black begins.
    margin = 1 + 2 * side / size
    inside = ((where > margin) & (where < 250 - margin)).all(axis=-1)
    for channel in (0, 1):
        # Pixel i covers i..i+1, so that its value i belongs to the position i + 0.5.
        error = cut[..., channel] - (where[..., channel] - 0.5)
        assert np.abs(error[inside]).max() < 1.6


def test_a_crop_is_black_beyond_the_picture():
    cut = SquareCrop(x=0, y=0, side=100).cut(np.full((100, 100, 3), 200, np.uint8), 50)
    assert (cut[:24] == 0).all()
    assert (cut[:, :24] == 0).all()
    assert (cut[26:, 26:] == 200).all()


def test_a_large_crop_is_averaged_not_sampled():
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    cut = SquareCrop(x=512, y=512, side=1024).cut(stripes, 64)
    assert np.abs(cut[1:-1, 1:-1].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("size", [(512, 512), (640, 480), (8192, 16), (3000, 4000), (8192, 8192)])
def test_tiles_cover_the_picture_and_stay_few(size):
    width, height = size
    covered = np.zeros((-(-height // 16), -(-width // 16)), bool)
    found = tiles(width, height)
    assert 0 < len(found) <= 9
    for tile in found:
        x, y, half = tile.x / 16, tile.y / 16, tile.side / 32
        rows = slice(max(0, int(y - half)), int(np.ceil(y + half)))
        covered[rows, max(0, int(x - half)) : int(np.ceil(x + half))] = True
    assert covered.all()


def test_small_pictures_need_no_tiles():
    assert tiles(500, 300) == []


def brute_force_nms(boxes, scores, max_iou):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        for j in kept:
            width = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
            height = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
            shared = max(0, width) * max(0, height)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[j])]
            if shared > max_iou * (sum(areas) - shared):
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(10))
def test_suppression_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    corner = rng.random((60, 2)) * 50
    boxes = np.concatenate([corner, corner + 5 + rng.random((60, 2)) * 30], axis=1)
    scores = np.round(rng.random(60), 1)  # with ties
    assert nms(boxes, scores, 0.3) == brute_force_nms(boxes, scores, 0.3)


@pytest.mark.parametrize("side", [200.0, 256.0, 700.0])
def test_a_pasted_mask_is_the_enlarged_crop_inside_the_box(side):
    rng = np.random.default_rng(5)
    logits = np.asarray(
        Image.fromarray(rng.normal(size=(8, 8)).astype(np.float32)).resize((256, 256))
    )
    crop = SquareCrop(x=310, y=420, side=side)
    box = Box(x_min=250, y_min=330.2, x_max=390.7, y_max=500)
    mask = paste_mask(logits, crop, box, 600, 800)
    y, x = np.mgrid[330:500, 250:391] + 0.5
    column = (x - crop.x + side / 2) * 256 / side
    row = (y - crop.y + side / 2) * 256 / side
    nearest = logits[np.clip(row.astype(int), 0, 255), np.clip(column.astype(int), 0, 255)] > 0
    inside = mask[330:500, 250:391]
    assert (inside == nearest).mean() > 0.97
    assert mask.sum() == inside.sum()


def test_bands_of_a_tall_mask_join_without_a_seam():
    logits = np.add.outer(np.linspace(-1, 1, 256), np.linspace(-1, 1, 256)).astype(np.float32)
    crop = SquareCrop(x=1000, y=1000, side=2000)
    mask = paste_mask(logits, crop, Box(x_min=0, y_min=0, x_max=2000, y_max=2000), 2000, 2000)
    covered = mask.sum(axis=1, dtype=int)  # a straight slope, in warpAffine's steps of 1/32
    assert np.abs(np.diff(covered)).max() <= 5
    assert covered[0] < 30
    assert covered[-1] > 1970
    assert np.array_equal(decode_mask(encode_mask(mask)), mask.astype(bool))

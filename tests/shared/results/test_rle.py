"""Masks: our reader against pycocotools, and against codes that nobody's encoder writes."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from shared.errors import TaskError
from shared.results import (
    RleMask,
    complete_mask,
    decode_mask,
    decode_runs,
    encode_mask,
    mask_box,
    mask_iou,
)


def encode(mask: np.ndarray) -> RleMask:
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return RleMask(size=tuple(code["size"]), counts=code["counts"].decode())


def random_mask(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.random((-(-height // 5), -(-width // 5))) < rng.random()
    return np.kron(coarse, np.ones((5, 5), bool))[:height, :width]


@pytest.mark.parametrize("seed", range(20))
def test_masks_decode_as_pycocotools_encoded_them(seed):
    height, width = np.random.default_rng(seed).integers(1, 300, 2)
    mask = random_mask(seed, int(height), int(width))
    code = encode(mask)
    assert encode_mask(mask.astype(np.uint8)) == code
    assert np.array_equal(decode_mask(code), mask)


@pytest.mark.parametrize("value", [False, True])
def test_uniform_masks_of_the_largest_size_decode(value):
    mask = np.full((8192, 8192), value)
    assert encode_mask(mask.astype(np.uint8)) == encode(mask)


def test_noise_decodes():
    mask = np.random.default_rng(3).random((257, 131)) < 0.5
    assert encode_mask(mask.astype(np.uint8)) == encode(mask)
    assert np.array_equal(decode_mask(encode(mask)), mask)


@pytest.mark.parametrize("seed", range(20))
def test_mask_iou_equals_pycocotools(seed):
    first, second = encode(random_mask(seed, 61, 47)), encode(random_mask(seed + 100, 61, 47))
    codes = [{"size": list(m.size), "counts": m.counts.encode()} for m in (first, second)]
    expected = float(coco.iou(codes[:1], codes[1:], [0])[0, 0])
    assert mask_iou(first, second) == pytest.approx(expected, abs=1e-12)


def test_empty_masks_have_no_overlap():
    empty = encode(np.zeros((20, 30), bool))
    assert mask_iou(empty, empty) == 0.0


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ((16, 16), ""),  # no runs
        ((16, 16), "o"),  # a number that never ends
        ((16, 16), "oooooooooooo0"),  # too long a number
        ((16, 16), "\x7f"),  # outside the code
        ((16, 16), "é"),
        ((16, 16), "/"),
        ((16, 16), "O"),  # -1 pixels
        ((16, 16), "1"),  # 1 pixel of 256
        ((16, 16), "P9"),  # 288 of 256
        ((8193, 16), "0"),
        ((2**40, 2**40), "0"),
    ],
)
def test_damaged_masks_are_refused(size, counts):
    with pytest.raises(TaskError) as caught:
        decode_runs(RleMask(size=size, counts=counts))
    assert caught.value.reason == "bad_mask"


@given(counts=st.text(alphabet=[chr(48 + i) for i in range(64)], max_size=60))
def test_any_code_is_read_or_refused_and_fills_the_mask(counts):
    mask = RleMask(size=(16, 20), counts=counts)
    try:
        runs = decode_runs(mask)
    except TaskError:
        return
    assert runs.sum() == 320
    assert runs.min() >= 0
    assert decode_mask(mask).shape == (16, 20)


@pytest.mark.parametrize("piece", ["0", "o", "oooooo?"])
def test_long_hostile_codes_cost_no_more_than_their_length(piece):
    def seconds(length: int) -> float:
        mask = RleMask(size=(1024, 1024), counts=piece * (length // len(piece)))
        fastest = math.inf
        for _ in range(5):
            started = time.process_time()
            with pytest.raises(TaskError):
                decode_runs(mask)
            fastest = min(fastest, time.process_time() - started)
        return fastest

    # Thirty times as long; by the square it would be nine hundred times as slow.
    assert seconds(3_000_000) < 450 * max(seconds(100_000), 1e-4)


def test_masks_of_different_pictures_do_not_compare():
    with pytest.raises(TaskError):
        mask_iou(encode(np.ones((16, 17), bool)), encode(np.ones((17, 16), bool)))


@pytest.mark.parametrize("density", [0.0, 0.002, 0.05, 0.5, 1.0])
def test_a_masks_box_and_area_are_those_of_its_pixels(density: float) -> None:
    rng = np.random.default_rng(7)
    for height, width in ((1, 1), (1, 9), (9, 1), (37, 23)):
        mask = (rng.random((height, width)) < density).astype(np.uint8)
        rows, columns = np.nonzero(mask)
        box = (0.0, 0.0, 0.0, 0.0)
        if rows.size:
            left, top = float(columns.min()), float(rows.min())
            box = (left, top, float(columns.max()) - left + 1, float(rows.max()) - top + 1)
        assert mask_box(encode_mask(mask)) == (int(mask.sum()), box)


def test_a_mask_that_ends_early_is_completed_with_background() -> None:
    short = RleMask(size=(48, 64), counts="0`2P1")  # 80 inside, 32 outside, and no more
    with pytest.raises(TaskError):
        decode_runs(short)
    full = complete_mask(short)
    assert decode_runs(full).tolist() == [0, 80, 48 * 64 - 80]
    assert complete_mask(full) == full
    assert coco.decode({"size": list(full.size), "counts": full.counts}).sum() == 80
    with pytest.raises(TaskError):
        complete_mask(RleMask(size=(2, 2), counts="0`2P1"))

"""Detail of pictures: what averaging over blocks loses, by a plain computation beside ours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.preprocess import block_detail


def plain(image: np.ndarray, block: int) -> float:
    height, width = (side // 8 * 8 for side in image.shape[:2])
    pixels = image[:height, :width].astype(float) / 255
    blocks = pixels.reshape(height // block, block, width // block, block, 3)
    return float(np.square(blocks - blocks.mean((1, 3), keepdims=True)).mean())


@given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 99))
def test_it_is_the_deviation_from_block_means(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    expected = [plain(image, block) for block in (2, 4, 8)]
    assert block_detail(image) == pytest.approx(expected, rel=1e-4)


def test_flat_pictures_have_none_and_finer_blocks_lose_less(photos: dict[str, np.ndarray]) -> None:
    assert block_detail(np.full((40, 40, 3), 77, np.uint8)) == pytest.approx((0, 0, 0), abs=1e-7)
    two, four, eight = block_detail(photos["astronaut"])
    assert 0 < two < four < eight < 1

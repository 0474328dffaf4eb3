"""Which photos have no colour."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from shared.preprocess import is_grey, load_photo, without_colour


@pytest.fixture(scope="module")
def colour(photos: dict[str, np.ndarray]) -> np.ndarray:
    return photos["astronaut"]


@pytest.fixture(scope="module")
def grey(colour: np.ndarray) -> np.ndarray:
    return without_colour(colour)


def saved(pixels: np.ndarray, kind: str, **options: object) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return load_photo(buffer.getvalue())


def test_grey_photos_of_every_make_are_grey(grey: np.ndarray) -> None:
    noise = np.random.default_rng(1).normal(0, 8, grey.shape)
    kinds = {
        "as it is": grey,
        "greyscale JPEG": saved(grey[:, :, 0], "JPEG"),
        "16 bits": saved(grey[:, :, 0].astype(np.uint16) * 257, "PNG"),
        "JPEG with planes of colour": saved(grey, "JPEG", quality=30),
        "WebP with planes of colour": saved(grey, "WEBP", quality=20),
        "a camera's noise": np.clip(grey + noise, 0, 255).astype(np.uint8),
        "odd sides": np.ascontiguousarray(grey[:37, :53]),
        "black": np.zeros((16, 16, 3), np.uint8),
    }
    assert [name for name, photo in kinds.items() if not is_grey(photo)] == []


def test_the_least_colour_that_can_be_seen_is_colour(colour: np.ndarray, grey: np.ndarray) -> None:
    light, sepia, corner = grey.copy(), grey * (1.0, 0.93, 0.82), grey.copy()
    light[300:302, 200:202] = (255, 0, 0)
    corner[-20:, -20:] = np.clip(corner[-20:, -20:] + np.array((12, 0, -12)), 0, 255)
    kinds = {
        "in colour": colour,
        "a small light": light,
        "sepia": sepia.astype(np.uint8),
        "a faint corner": corner,
        "warm white": np.full((64, 64, 3), (255, 250, 240), np.uint8),
    }
    assert [name for name, photo in kinds.items() if is_grey(photo)] == []


def test_what_is_made_grey_keeps_its_luma(colour: np.ndarray) -> None:
    made = without_colour(colour)
    assert made.shape == colour.shape
    assert np.array_equal(made[:, :, 0], made[:, :, 1])
    assert np.array_equal(made[:, :, 0], made[:, :, 2])
    assert np.array_equal(without_colour(made), made)
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(made[:, :, 0] - luma).max() <= 1

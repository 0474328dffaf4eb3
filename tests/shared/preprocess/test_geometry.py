"""Padding repeats the edge and is cropped away again; only real pictures are taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PhotoError
from shared.limits import Limits
from shared.preprocess import crop_to, from_array, pad_to_multiple, padded_size

sides = st.integers(1, 67)


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * 1000 + height).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


@given(width=sides, height=sides, multiple=st.integers(1, 33))
def test_cropping_undoes_padding(width: int, height: int, multiple: int) -> None:
    image = picture(width, height)
    padded = pad_to_multiple(image, multiple)
    assert (padded.shape[1], padded.shape[0]) == padded_size(width, height, multiple)
    assert padded.shape[0] % multiple == 0
    assert padded.shape[1] % multiple == 0
    assert padded.shape[0] - height < multiple
    assert padded.shape[1] - width < multiple
    cropped = crop_to(padded, width, height)
    assert cropped.flags.c_contiguous
    np.testing.assert_array_equal(cropped, image)


@given(width=sides, height=sides, multiple=st.integers(2, 33))
def test_padding_repeats_the_edge(width: int, height: int, multiple: int) -> None:
    image = picture(width, height)
    padded = pad_to_multiple(image, multiple)
    rows = np.minimum(np.arange(padded.shape[0]), height - 1)
    columns = np.minimum(np.arange(padded.shape[1]), width - 1)
    np.testing.assert_array_equal(padded, image[rows][:, columns])


def test_a_size_that_fits_is_not_copied() -> None:
    image = picture(32, 64)
    assert pad_to_multiple(image, 32) is image


@pytest.mark.parametrize("arguments", [(0, 5, 4), (5, 0, 4), (5, 5, 0), (-1, 5, 4), (5, 5, -2)])
def test_sizes_that_make_no_sense_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(PhotoError) as caught:
        padded_size(*arguments)
    assert caught.value.reason == "bad_size"


@pytest.mark.parametrize("size", [(33, 10), (10, 33), (0, 10), (10, 0), (-1, 3)])
def test_cropping_never_grows(size: tuple[int, int]) -> None:
    with pytest.raises(PhotoError) as caught:
        crop_to(picture(32, 32), *size)
    assert caught.value.reason == "bad_size"


NOT_PICTURES = [
    [[1, 2, 3]],
    None,
    np.zeros((20, 20), np.uint8),
    np.zeros((20, 20, 4), np.uint8),
    np.zeros((3, 20, 20), np.uint8),
    np.zeros((1, 20, 20, 3), np.uint8),
    np.zeros((20, 20, 3), np.float32),
    np.zeros((20, 20, 3), np.int64),
    np.zeros((20, 20, 3), bool),
    np.zeros((0, 20, 3), np.uint8),
    np.array("text"),
    np.array([object()]),
]


@pytest.mark.parametrize("array", NOT_PICTURES, ids=lambda a: getattr(a, "dtype", type(a)))
def test_what_is_no_picture_is_refused(array: object) -> None:
    for function in (
        from_array,
        lambda value: pad_to_multiple(value, 8),
        lambda value: crop_to(value, 1, 1),
    ):
        with pytest.raises(PhotoError) as caught:
            function(array)
        assert caught.value.reason == "bad_array"


def test_a_view_becomes_contiguous() -> None:
    image = picture(40, 40)
    taken = from_array(image[::-1, ::2])
    assert taken.flags.c_contiguous
    np.testing.assert_array_equal(taken, image[::-1, ::2])
    assert from_array(image) is image


@pytest.mark.parametrize(
    ("size", "reason"), [((15, 40), "too_small"), ((40, 15), "too_small"), ((101, 40), "too_large")]
)
def test_sides_of_an_array_are_checked(size: tuple[int, int], reason: str) -> None:
    with pytest.raises(PhotoError) as caught:
        from_array(picture(*size), limits=Limits(max_side=100))
    assert caught.value.reason == reason
    assert caught.value.details == {"width": size[0], "height": size[1]}

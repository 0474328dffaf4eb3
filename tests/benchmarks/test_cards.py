"""Cards: colours that turn and letters that blur are seen, and worse ones are seen more."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from benchmarks.cards.colours import KINDS, SIDE, cards, difference
from benchmarks.cards.measure import colour_rows, text_rows
from benchmarks.cards.text import SIZES, WEIGHTS, Reader, edit_distance, page
from tests.support.real_store import fetched
from training.evaluate.baselines import Baseline

Pixels = np.ndarray


def blurred(pixels: Pixels, radius: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.BoxBlur(radius)))


def tinted(pixels: Pixels, by: int) -> tuple[int, Pixels]:
    shifted = pixels.astype(int) + np.array([by, 0, 0])
    return 100 - by, shifted.clip(0, 255).astype(np.uint8)


def test_there_are_cards_of_every_kind() -> None:
    found = list(cards())
    assert {kind for kind, _, _ in found} == set(KINDS)
    assert all(pixels.shape == (SIDE, SIDE, 3) for _, _, pixels in found)
    patches = found[-1][2]
    assert len(np.unique(patches.reshape(-1, 3), axis=0)) >= 17


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # Two greys: CIEDE2000 by hand. S_L at the mean L* of 53.98 is 1.0524, L* differ by 0.777.
        ((128, 128, 128), (130, 130, 130), 0.777 / 1.0524),
        ((128, 128, 128), (128, 128, 128), 0.0),
    ],
)
def test_a_difference_is_ciede2000(first: object, second: object, expected: float) -> None:
    one, other = (np.full((8, 8, 3), colour, np.uint8) for colour in (first, second))
    assert difference(one, other) == pytest.approx(expected, abs=0.02)


def test_pictures_of_two_sizes_are_no_cards() -> None:
    with pytest.raises(ValueError, match="two sizes"):
        difference(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8))


def test_a_stronger_tint_is_a_greater_difference_and_the_worst_card_is_told() -> None:
    rows = colour_rows([Baseline("tint", (0, 4, 16), tinted)])
    assert [row["bytes"] for row in rows] == [100, 96, 84]
    for kind in KINDS:
        values = [row[kind] for row in rows]
        assert values[0] == 0 < values[1] < values[2]
        assert all(row["worst"] >= row[kind] for row in rows)


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [("", "", 0), ("gate", "", 4), ("kitten", "sitting", 3), ("north", "north", 0), ("a", "b", 1)],
)
def test_edits_are_counted(first: str, second: str, edits: int) -> None:
    assert edit_distance(first, second) == edit_distance(second, first) == edits


def test_a_page_has_all_sizes_in_both_colours_and_is_the_same_each_time() -> None:
    pixels, lines = page()
    again, _ = page()
    assert (pixels == again).all()
    assert sorted({line.size for line in lines}) == list(SIZES)
    for line in lines:
        left, top, right, bottom = line.box
        assert 0 <= left < right <= 512
        assert 0 <= top < bottom <= 512
        assert pixels[top:bottom, left:right].std() > 20, "letters and paper"


def test_letters_are_read_until_they_are_blurred() -> None:
    reader = Reader(fetched(WEIGHTS))
    blur = Baseline("blur", (1, 4), lambda pixels, knob: (1000, blurred(pixels, knob)))
    original, slight, strong = text_rows([blur], reader)
    assert all(original[str(size)] < 0.1 for size in SIZES)
    assert strong["14"] > 0.8 > 0.1 > slight["40"]
    assert strong["14"] >= slight["14"]

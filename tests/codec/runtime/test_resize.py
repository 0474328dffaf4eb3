"""The quick way to a network's size gives Pillow's bits, or is not taken."""

from __future__ import annotations

import numpy as np
import pytest

from codec.onnx import FeatureExtractor
from codec.runtime import resize
from codec.runtime.resize import Resizer, covered
from shared.bundle import Bundle
from shared.preprocess.geometry import resized

QUICK = [
    ((768, 576), (320, 320)),
    ((640, 480), (320, 320)),
    ((1280, 720), (320, 180)),  # a letterbox's
    ((960, 540), (224, 224)),
    ((3840, 320), (320, 320)),  # twelve columns to one, of which halves go down
    ((320, 1440), (320, 320)),
    ((500, 375), (320, 320)),
    ((641, 97), (641, 50)),  # rows alone
]


def noise(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


@pytest.mark.parametrize(("before", "after"), QUICK)
def test_bits_are_pillows(before: tuple[int, int], after: tuple[int, int]) -> None:
    resizer = Resizer()
    for seed in range(3):
        image = noise(before, seed)
        # Sums in which halves are frequent.
        for picture in (image, image // 100, np.full_like(image, 255), 2 * (image // 128)):
            np.testing.assert_array_equal(resizer(picture, after), resized(picture, after))


@pytest.mark.parametrize(("before", "after"), QUICK[:-1])
def test_the_quick_way_is_taken(before: tuple[int, int], after: tuple[int, int]) -> None:
    assert resize._checked((*before, *after)) is not None


@pytest.mark.parametrize(
    ("before", "after"),
    [((1366, 768), (320, 320)), ((160, 120), (320, 320)), ((352, 288), (320, 320))],
)
def test_what_has_no_quick_way_is_pillows(before: tuple[int, int], after: tuple[int, int]) -> None:
    assert resize._checked((*before, *after)) is None
    resizer = Resizer()
    for _ in range(3):
        np.testing.assert_array_equal(resizer(noise(before), after), resized(noise(before), after))


def test_sizes_may_change_between_pictures() -> None:
    resizer = Resizer()
    for size in [(768, 576), (768, 576), (640, 480), (768, 576), (640, 480), (640, 480)]:
        np.testing.assert_array_equal(
            resizer(noise(size), (320, 320)), resized(noise(size), (320, 320))
        )


def test_other_bits_than_pillows_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = covered
    monkeypatch.setattr(resize, "covered", lambda a, b: [row[:1] for row in real(a, b)])
    assert resize._checked.__wrapped__((768, 576, 320, 320)) is None


def test_every_picture_of_a_video_has_the_features_of_a_still() -> None:
    photo = noise((768, 576))
    extractor = FeatureExtractor(Bundle.load("detect"))
    first, *others = (extractor(photo)["bottleneck"] for _ in range(3))
    for other in others:
        np.testing.assert_array_equal(first, other)

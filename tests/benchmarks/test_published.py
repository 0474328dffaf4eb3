"""Published figures: read between their points, never beyond, and only of the set they are of."""

from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.published import published_table

OURS = [
    {"codec": "featherwire", "knob": 1, "bits_per_pixel": 0.1, "psnr": 26.0, "ms_ssim": 0.9},
    {"codec": "featherwire", "knob": 0, "bits_per_pixel": 0.4, "psnr": 30.0, "ms_ssim": 0.97},
    {"codec": "bypass", "knob": 16, "bits_per_pixel": 3.0, "psnr": 40.0},
]


def row(text: str, name: str, place: int = 0) -> list[str]:
    found = [line for line in text.splitlines() if line.startswith(f"| {name}")]
    return [cell.strip() for cell in found[place].split("|")[2:-1]]


def test_values_between_points_are_of_the_logarithm_and_none_are_beyond() -> None:
    text = published_table("kodak", 768, OURS)
    #                                      0.05  0.1      0.15   0.2      0.3  0.4      0.5
    ours = row(text, "featherwire")
    assert (ours[0], ours[1], ours[3], ours[5], ours[6]) == ("-", "26.00", "28.00", "30.00", "-")
    assert row(text, "featherwire", 1)[1] == "0.9000"
    vtm = row(text, "VTM")
    assert float(vtm[0]) == pytest.approx(26.14, abs=0.15)
    assert all(float(a) < float(b) for a, b in pairwise(vtm))
    assert row(text, "WebP")[:3] == ["-", "-", "-"]
    assert "bypass" not in text


@pytest.mark.parametrize(("name", "size"), [("coco128", 768), ("kodak", 512)])
def test_nothing_is_said_of_other_photos(name: str, size: int) -> None:
    assert published_table(name, size, OURS) == ""

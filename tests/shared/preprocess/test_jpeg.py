"""A JPEG without its end marker is whole when its pixels are there, and truncated when not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.errors import PhotoError
from shared.limits import Limits
from shared.preprocess import load_photo
from shared.preprocess.jpeg import with_end

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "with restarts": {"restart_marker_blocks": 4},
    "own tables": {"optimize": True},
}


def jpeg(kind: str, *, flat: bool) -> bytes:
    rng = np.random.default_rng(5)
    pixels = (
        np.full((57, 83, 3), 90, np.uint8) if flat else rng.integers(0, 256, (57, 83, 3), np.uint8)
    )
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=80, **KINDS[kind])
    return data.getvalue()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", [1, 2])
def test_the_end_marker_is_not_missed(kind: str, flat: bool, lost: int) -> None:
    whole = jpeg(kind, flat=flat)
    assert (load_photo(whole[:-lost]) == load_photo(whole)).all()
    assert with_end(whole[:-2]) == whole
    assert with_end(whole[:-2], exactly=False) == whole
    filled = whole[:-2] + b"\xff" * 300  # what flash memory reads where nothing was written
    assert (load_photo(filled) == load_photo(whole)).all()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_missing_pixels_are(kind: str, flat: bool, share: float) -> None:
    whole = jpeg(kind, flat=flat)
    pixels_from = len(whole) - 40 if flat else 700
    cut = whole[: pixels_from + int(share * (len(whole) - 12 - pixels_from))]
    assert with_end(cut, exactly=False) is None
    with pytest.raises(PhotoError) as caught:
        load_photo(cut)
    assert caught.value.reason == "truncated"


def test_a_lost_scan_is_missing_too() -> None:
    """Such a picture decodes, coarser."""
    whole = jpeg("progressive", flat=False)
    last_scan = whole.rfind(b"\xff\xda")
    tables = whole.rfind(b"\xff\xc4", 0, last_scan)
    assert with_end(whole[:tables]) is None
    assert with_end(whole[:last_scan]) is None


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8\xff", b"\xff\xd8\xff\xda\x00\x02", b"GIF89a"]
)
def test_what_is_no_jpeg_stays_none(data: bytes) -> None:
    assert with_end(data) is None


def test_what_is_too_large_or_too_complex_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    class Watched(io.BytesIO):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            decoded.append(data)

    whole = jpeg("progressive", flat=True)[:-2]
    assert with_end(whole, limits=Limits(max_side=50)) is None
    scan = whole[whole.rfind(b"\xff\xda") :]
    monkeypatch.setattr("shared.preprocess.jpeg.io.BytesIO", Watched)
    assert with_end(whole + scan * 50) is None
    assert decoded == []

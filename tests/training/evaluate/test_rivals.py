"""Rivals: what they decode has the photo's size, and a worse quality is a smaller file."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluate.rivals import Rival, rivals, smallest_within


@pytest.mark.parametrize("rival", rivals(), ids=lambda rival: rival.name)
def test_files_decode_to_the_photos_size_and_shrink_with_quality(
    rival: Rival, photos: dict[str, np.ndarray]
) -> None:
    photo = np.ascontiguousarray(photos["chelsea"][:211, :301])
    ends = (rival.knobs[0], rival.knobs[-1])
    coarse, fine = list(rival.points(photo, ends))
    assert (coarse[0], fine[0]) == ends
    assert coarse[2].shape == fine[2].shape == photo.shape
    assert coarse[1] < fine[1]
    error = [float(np.abs(photo.astype(int) - row[2]).mean()) for row in (coarse, fine)]
    assert error[1] < error[0] < 40


def test_a_reduced_rival_is_smaller_at_the_same_quality(photos: dict[str, np.ndarray]) -> None:
    by_name = {rival.name: rival for rival in rivals()}
    photo = photos["chelsea"]
    sizes = [
        by_name[name].code(photo, 20)[0]
        for name in ("avif", "avif-half", "avif-quarter")
        if name in by_name
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_rivals_keep_within_a_budget(photos: dict[str, np.ndarray]) -> None:
    photo = photos["chelsea"]
    for rival in rivals():
        found = smallest_within(rival, photo, 6000)
        assert found is not None
        quality, size, decoded = found
        assert size <= 6000
        assert decoded.shape == photo.shape
        assert rival.code(photo, quality)[0] == size
        assert smallest_within(rival, photo, 30) is None


def test_identities_differ_so_that_caches_do_not_mix() -> None:
    found = rivals()
    assert len({rival.identity for rival in found}) == len(found)
    assert all(rival.version for rival in found)

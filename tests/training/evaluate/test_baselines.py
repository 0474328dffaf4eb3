"""Baselines: what they decode has the photo's size, and a worse quality is a smaller file."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluate.baselines import Baseline, picture_baselines, smallest_within


@pytest.mark.parametrize("baseline", picture_baselines(), ids=lambda baseline: baseline.name)
def test_files_decode_to_the_photos_size_and_shrink_with_quality(
    baseline: Baseline, photos: dict[str, np.ndarray]
) -> None:
    photo = np.ascontiguousarray(photos["chelsea"][:211, :301])
    ends = (baseline.knobs[0], baseline.knobs[-1])
    coarse, fine = list(baseline.points(photo, ends))
    assert (coarse.knob, fine.knob) == ends
    assert coarse.picture is not None
    assert fine.picture is not None
    assert coarse.picture.shape == fine.picture.shape == photo.shape
    assert coarse.bytes < fine.bytes
    error = [float(np.abs(photo.astype(int) - one.picture).mean()) for one in (coarse, fine)]
    assert error[1] < error[0] < 40


def test_a_reduced_baseline_is_smaller_at_the_same_quality(photos: dict[str, np.ndarray]) -> None:
    by_name = {baseline.name: baseline for baseline in picture_baselines()}
    photo = photos["chelsea"]
    sizes = [
        by_name[name].code(photo, 20)[0]
        for name in ("avif", "avif-half", "avif-quarter")
        if name in by_name
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_baselines_keep_within_a_budget(photos: dict[str, np.ndarray]) -> None:
    photo = photos["chelsea"]
    for baseline in picture_baselines():
        found = smallest_within(baseline, photo, 6000)
        assert found is not None
        quality, size, decoded = found
        assert size <= 6000
        assert decoded.shape == photo.shape
        assert baseline.code(photo, quality)[0] == size
        assert smallest_within(baseline, photo, 30) is None


def test_identities_differ_so_that_caches_do_not_mix() -> None:
    found = picture_baselines()
    assert len({baseline.identity for baseline in found}) == len(found)
    assert all(baseline.version for baseline in found)

"""Grey in, grey out: what the photo was is told beside its layers, and the picture has no tint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from codec import open_cloud, open_edge
from codec.base import EdgeOptions
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.preprocess import without_colour
from shared.targets import RateTarget, Region
from tests.support.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def colour(photos: dict[str, np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(photos["coffee"][:200, :250])


@pytest.fixture(scope="module")
def grey(colour: np.ndarray) -> np.ndarray:
    return without_colour(colour)


def chroma(picture: np.ndarray) -> int:
    return int((picture.max(2).astype(int) - picture.min(2)).max())


def picture_of(bundle: Bundle, bitstream: Bitstream) -> np.ndarray:
    cloud = open_cloud(bundle)
    (made,) = cloud.open_reconstructor().reconstruct([cloud.decode(bitstream)])
    return made


def test_grey_comes_back_grey_at_every_state_and_colour_coloured(
    bundle: Bundle, colour: np.ndarray, grey: np.ndarray
) -> None:
    edge, cloud = open_edge(bundle), open_cloud(bundle)
    whole = edge.encode(grey, version=4)
    assert whole.grey
    states = [cloud.decode(whole.truncate(s)) for s in range(bundle.manifest.coarsest_state + 1)]
    coloured = edge.encode(colour, version=4)
    assert not coloured.grey
    *pictures, other = cloud.open_reconstructor().reconstruct([*states, cloud.decode(coloured)])
    assert [chroma(picture) for picture in pictures] == [0] * len(states)
    assert chroma(other) > 0


def test_only_the_colour_of_the_picture_is_another(bundle: Bundle, grey: np.ndarray) -> None:
    bitstream = open_edge(bundle).encode(grey, version=4)
    told = picture_of(bundle, bitstream)
    untold = picture_of(bundle, dataclasses.replace(bitstream, grey=False))
    assert np.array_equal(told, without_colour(untold))


def test_budgets_count_the_byte_that_says_it(bundle: Bundle, grey: np.ndarray) -> None:
    edge = open_edge(bundle)
    whole = edge.encode(grey, version=4)
    for size in range(whole.truncate(4).file_bytes, whole.file_bytes + 1, 7):
        made = edge.encode(grey, RateTarget(max_bytes=size), version=4)
        assert made.grey
        assert made.file_bytes <= size
        short = edge.shorten(whole, RateTarget(max_bytes=size))
        assert short.to_bytes() == made.to_bytes()


def test_regions_and_other_versions_of_it(bundle: Bundle, grey: np.ndarray) -> None:
    edge = open_edge(bundle, EdgeOptions())
    with_region = edge.encode(
        grey, RateTarget(state=3), regions=(Region(0.2, 0.2, 0.7, 0.7, 1),), version=4
    )
    assert with_region.grey
    assert chroma(picture_of(bundle, with_region)) == 0
    old = edge.recode(with_region, 3)
    assert not old.grey  # it has no room for that
    assert old.to_bytes() == edge.encode(
        grey, RateTarget(state=3), regions=(Region(0.2, 0.2, 0.7, 0.7, 1),), version=3
    ).to_bytes()  # fmt: skip


def test_the_packaged_bundle_gives_no_tint(photos: dict[str, np.ndarray], tmp_path: Path) -> None:
    photo = without_colour(np.ascontiguousarray(photos["chelsea"][:160, :160]))
    bundle = Bundle.load()
    bitstream = open_edge(bundle, EdgeOptions(precision="fp32")).encode(photo, version=4)
    for state in (0, 8):
        cut = bitstream.truncate(state)
        assert chroma(picture_of(bundle, cut)) == 0
        assert chroma(picture_of(bundle, dataclasses.replace(cut, grey=False))) > 0

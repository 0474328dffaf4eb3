"""Measuring: what the cache gives is what measuring gives, and only what is missing is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from shared.bundle import Bundle
from tests.support.tiny_bundle import make_tiny_bundle
from training.evaluate.baselines import rivals
from training.evaluate.judges.metrics import Figures, MetricGroup, open_groups
from training.evaluate.measure import PointCache, default_cache_dir, measure
from training.evaluate.photos import EvaluationPhoto
from training.evaluate.subjects import BundleCoder, Bypass, Codec, Original, States


class Counting:
    """A codec that counts what it codes."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.name, self.identity, self.groups = codec.name, codec.identity, codec.groups
        self.knobs = codec.knobs
        self.coded: list[int] = []

    def points(self, pixels: np.ndarray, knobs: Sequence[int]) -> Iterator[tuple]:  # type: ignore[type-arg]
        for point in self._codec.points(pixels, knobs):
            self.coded.append(point[0])
            yield point


class Darkness:
    """A second metric group, to see that one group's cache does not stand for another's."""

    name, version = "darkness", "1"

    def open(self, original: np.ndarray) -> Callable[[np.ndarray], Figures]:
        return lambda decoded: {"darkness": float(original.mean() - decoded.mean())}


@pytest.fixture
def pixels_group() -> list[MetricGroup]:
    return open_groups(["pixels"])[0]


@pytest.fixture
def two_photos(photos: dict[str, np.ndarray]) -> list[EvaluationPhoto]:
    return [
        EvaluationPhoto(name, np.ascontiguousarray(photos[name][:96, :128]))
        for name in ("coffee", "chelsea")
    ]


def test_a_cache_hit_is_what_measuring_gives(
    tmp_path: Path, two_photos: list[EvaluationPhoto], pixels_group: list[MetricGroup]
) -> None:
    codec = Counting(rivals()[0])
    cache = PointCache(tmp_path)
    first = measure(two_photos, [codec], pixels_group, cache=cache)
    assert codec.coded == [*codec.knobs, *codec.knobs]
    again = measure(two_photos, [codec], pixels_group, cache=cache)
    assert len(codec.coded) == 2 * len(codec.knobs)
    fresh = measure(two_photos, [codec], pixels_group, cache=PointCache(None))
    assert first.points == again.points == fresh.points


def test_only_what_is_missing_is_measured(
    tmp_path: Path, two_photos: list[EvaluationPhoto], pixels_group: list[MetricGroup]
) -> None:
    codec = Counting(rivals()[0])
    every = codec.knobs
    codec.knobs = every[:2]
    cache = PointCache(tmp_path)
    measure(two_photos[:1], [codec], pixels_group, cache=cache)
    codec.knobs, codec.coded = every, []
    measure(two_photos[:1], [codec], pixels_group, cache=cache)
    assert codec.coded == list(every[2:])
    codec.coded = []
    found = measure(two_photos[:1], [codec], [*pixels_group, Darkness()], cache=cache)
    assert codec.coded == list(every)
    assert all({"psnr", "darkness"} <= set(point.figures) for point in found.points)


def test_other_pixels_another_codec_or_a_damaged_file_are_no_hit(
    tmp_path: Path, two_photos: list[EvaluationPhoto]
) -> None:
    cache = PointCache(tmp_path)
    cache.write("g-1", two_photos[0].digest, "codec/1", {5: {"x": 1.0}})
    assert cache.read("g-1", two_photos[0].digest, "codec/1") == {5: {"x": 1.0}}
    assert cache.read("g-2", two_photos[0].digest, "codec/1") == {}
    assert cache.read("g-1", two_photos[1].digest, "codec/1") == {}
    assert cache.read("g-1", two_photos[0].digest, "codec/2") == {}
    (file,) = tmp_path.rglob("*.json")
    for damaged in ("", "[1]", '{"codec": "codec/1"}', file.read_text().replace('"5"', '"five"')):
        file.write_text(damaged)
        assert cache.read("g-1", two_photos[0].digest, "codec/1") == {}


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEATHERWIRE_BENCH_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("FEATHERWIRE_BENCH_CACHE")
    assert default_cache_dir().name == "bench"


def test_a_slow_group_can_be_limited_to_the_first_photos(
    two_photos: list[EvaluationPhoto], pixels_group: list[MetricGroup]
) -> None:
    found = measure(
        two_photos, [rivals()[0]], [*pixels_group, Darkness()],
        cache=PointCache(None), limits={"darkness": 1},
    )  # fmt: skip
    having = {point.photo for point in found.points if "darkness" in point.figures}
    assert having == {"coffee"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


def test_a_bundle_is_measured_at_every_state_and_beside_it_the_null_codec(
    bundle: Bundle, two_photos: list[EvaluationPhoto], pixels_group: list[MetricGroup]
) -> None:
    coder = BundleCoder(bundle)
    codecs = [States(coder), Bypass(coder), Original()]
    found = measure(two_photos[:1], codecs, pixels_group, cache=PointCache(None)).points
    ours = [point for point in found if point.codec == "featherwire"]
    assert [point.knob for point in ours] == list(range(bundle.manifest.coarsest_state, -1, -1))
    assert [point.bytes for point in ours] == sorted(point.bytes for point in ours)
    (bypass,) = (point for point in found if point.codec == "bypass")
    values = sum(
        (96 // scale.stride) * (128 // scale.stride) * scale.channels
        for scale in bundle.manifest.scales
    )
    assert bypass.bytes == 2 * values > ours[-1].bytes
    (original,) = (point for point in found if point.codec == "original")
    assert (original.bits_per_pixel, original.figures) == (24, {})
    assert len({point.figures["psnr"] for point in [*ours, bypass]}) == len(ours) + 1


def test_the_same_pixels_have_the_same_digest_and_others_do_not() -> None:
    flat = np.zeros((16, 32, 3), np.uint8)
    digests = {EvaluationPhoto("a", flat).digest, EvaluationPhoto("b", flat.copy()).digest}
    assert len(digests) == 1
    digests |= {
        EvaluationPhoto("a", flat.reshape(32, 16, 3)).digest,
        EvaluationPhoto("a", flat + 1).digest,
    }
    assert len(digests) == 3

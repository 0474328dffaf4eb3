"""Measuring: what the cache gives is what measuring gives, and only what is missing is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from codec.base import small_bundle
from codec.settings import FeatureSettings
from shared.bundle import Bundle
from tests.support.tiny_bundle import make_tiny_bundle
from training.evaluate.baselines import picture_baselines
from training.evaluate.judges.metrics import PictureJudge, open_groups
from training.evaluate.measure import (
    Coded,
    Figures,
    FileSizes,
    Judge,
    PointCache,
    Subject,
    default_cache_dir,
    measure,
)
from training.evaluate.photos import EvaluationPhoto
from training.evaluate.subjects import Bypass, Halves, Original, PictureStates


class Counting:
    """A subject that counts what it codes."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.name, self.identity, self.judges = subject.name, subject.identity, subject.judges
        self.knobs, self.makes = subject.knobs, subject.makes
        self.coded: list[int] = []

    def points(self, pixels: np.ndarray, knobs: Sequence[int]) -> Iterator[Coded]:
        for coded in self._subject.points(pixels, knobs):
            self.coded.append(coded.knob)
            yield coded


class Darkness:
    """A second group of metrics, to see that one group's cache does not stand for another's."""

    name, version = "darkness", "1"

    def open(self, original: np.ndarray) -> Callable[[np.ndarray], Figures]:
        return lambda decoded: {"darkness": float(original.mean() - decoded.mean())}


def first_baseline() -> Counting:
    return Counting(picture_baselines()[0])


@pytest.fixture
def judges() -> list[Judge]:
    return [FileSizes(), *map(PictureJudge, open_groups(["pixels"])[0])]


@pytest.fixture
def two_photos(photos: dict[str, np.ndarray]) -> list[EvaluationPhoto]:
    return [
        EvaluationPhoto(name, np.ascontiguousarray(photos[name][:96, :128]))
        for name in ("coffee", "chelsea")
    ]


def test_a_cache_hit_is_what_measuring_gives(
    tmp_path: Path, two_photos: list[EvaluationPhoto], judges: list[Judge]
) -> None:
    codec = first_baseline()
    cache = PointCache(tmp_path)
    first = measure(two_photos, [codec], judges, cache=cache)
    assert codec.coded == [*codec.knobs, *codec.knobs]
    again = measure(two_photos, [codec], judges, cache=cache)
    assert len(codec.coded) == 2 * len(codec.knobs)
    fresh = measure(two_photos, [codec], judges, cache=PointCache(None))
    assert first.columns == again.columns == fresh.columns


def test_only_what_is_missing_is_measured(
    tmp_path: Path, two_photos: list[EvaluationPhoto], judges: list[Judge]
) -> None:
    codec = first_baseline()
    every = codec.knobs
    codec.knobs = every[:2]
    cache = PointCache(tmp_path)
    measure(two_photos[:1], [codec], judges, cache=cache)
    codec.knobs, codec.coded = every, []
    measure(two_photos[:1], [codec], judges, cache=cache)
    assert codec.coded == list(every[2:])
    codec.coded = []
    found = measure(two_photos[:1], [codec], [*judges, PictureJudge(Darkness())], cache=cache)
    assert codec.coded == list(every)
    figures = [one for column in found.columns.values() for one in column.figures]
    assert len(figures) == len(every)
    assert all({"psnr", "darkness"} <= set(one) for one in figures)


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
    two_photos: list[EvaluationPhoto], judges: list[Judge]
) -> None:
    found = measure(
        two_photos, [first_baseline()], [*judges, PictureJudge(Darkness())],
        cache=PointCache(None), limits={"darkness": 1},
    )  # fmt: skip
    having = {
        photo.name
        for column in found.columns.values()
        for photo, figures in zip(found.photos, column.figures, strict=True)
        if "darkness" in figures
    }
    assert having == {"coffee"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


def test_a_bundle_is_measured_at_every_state_and_beside_it_the_null_codec(
    bundle: Bundle, two_photos: list[EvaluationPhoto], judges: list[Judge]
) -> None:
    halves = Halves(bundle)
    original = Original(judges=frozenset({"bytes"}))
    subjects = [PictureStates(halves), Bypass(halves), original]
    found = measure(two_photos[:1], subjects, judges, cache=PointCache(None)).columns
    ours = {knob: column for (name, knob), column in found.items() if name == "featherwire"}
    assert list(ours) == list(range(bundle.manifest.coarsest_state, -1, -1))
    sizes = [column.bytes[0] for column in ours.values()]
    assert sizes == sorted(sizes)
    bypass = found["bypass", 16]
    values = sum(
        (96 // scale.stride) * (128 // scale.stride) * scale.channels
        for scale in FeatureSettings.of(bundle).scales
    )
    assert bypass.bytes[0] == 2 * values > sizes[-1]
    whole = found["original", 24]
    assert (whole.bits_per_pixel, whole.figures) == ([24], [{}])
    psnrs = {column.figures[0]["psnr"] for column in [*ours.values(), bypass]}
    assert len(psnrs) == len(ours) + 1


def test_the_same_pixels_have_the_same_digest_and_others_do_not() -> None:
    flat = np.zeros((16, 32, 3), np.uint8)
    digests = {EvaluationPhoto("a", flat).digest, EvaluationPhoto("b", flat.copy()).digest}
    assert len(digests) == 1
    digests |= {
        EvaluationPhoto("a", flat.reshape(32, 16, 3)).digest,
        EvaluationPhoto("a", flat + 1).digest,
    }
    assert len(digests) == 3


def test_each_decoder_of_a_bundle_is_measured_by_itself(
    two_photos: list[EvaluationPhoto], judges: list[Judge], tmp_path: Path
) -> None:
    halves = Halves(small_bundle("lapped-lattice", tmp_path, kind="streams"))
    first, second = (PictureStates(halves, one, one) for one in ("faithful", "vivid"))
    assert first.identity == PictureStates(halves).identity != second.identity
    found = measure(two_photos[:1], [first, second], judges, cache=PointCache(None)).columns
    for state in first.knobs:
        one, other = found["faithful", state], found["vivid", state]
        assert one.bytes == other.bytes
        assert one.figures != other.figures

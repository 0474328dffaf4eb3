"""Photos times codecs times metrics, with what was measured before taken from the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from training.evaluate.cache import PointCache
from training.evaluate.metrics.base import Figures, MetricGroup, Pixels
from training.evaluate.photos import EvaluationPhoto, Truth
from training.evaluate.under_test import Codec

_SIZES = "bytes-1"
"""The cache's name for file sizes, which need no metric."""


@dataclass(frozen=True)
class Point:
    """A photo by a codec at an operating point: bytes of the whole file, and figures."""

    photo: str
    codec: str
    knob: int
    bytes: int
    bits_per_pixel: float
    figures: Figures


@dataclass(frozen=True)
class Measurements:
    """All points; the truth of annotated photos; sizes (width, height) by photo."""

    points: list[Point]
    truths: dict[str, tuple[Truth, ...]]
    sizes: dict[str, tuple[int, int]]


def measure(
    photos: Iterable[EvaluationPhoto],
    codecs: Sequence[Codec],
    groups: Sequence[MetricGroup],
    *,
    cache: PointCache,
    limits: Mapping[str, int] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Measurements:
    """Measure every photo by every codec at every operating point.

    limits: group name -> how many photos, from the first, that group is measured on; a slow
    metric need not hold up the others. progress is told a line a photo.
    """
    points: list[Point] = []
    truths: dict[str, tuple[Truth, ...]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number, photo in enumerate(photos):
        chosen = [g for g in groups if number < (limits or {}).get(g.name, number + 1)]
        height, width = photo.pixels.shape[:2]
        sizes[photo.name] = (width, height)
        if photo.truth is not None:
            truths[photo.name] = photo.truth
        comparers = _Comparers(photo.pixels, chosen)
        fresh = 0
        for codec in codecs:
            found, measured = _one(photo, codec, comparers, cache)
            points += found
            fresh += measured
        progress(f"{number + 1} {photo.name}: {fresh} points measured")
    return Measurements(points, truths, sizes)


class _Comparers:
    """Every group opened on one original, when it is first needed."""

    def __init__(self, original: Pixels, groups: Sequence[MetricGroup]) -> None:
        self._original = original
        self._groups = {f"{group.name}-{group.version}": group for group in groups}
        self._open: dict[str, Callable[[Pixels], Figures]] = {}

    def keys(self, names: frozenset[str] | None) -> list[str]:
        """Names with versions, of the groups named; None for all."""
        return [key for key, group in self._groups.items() if names is None or group.name in names]

    def compare(self, key: str, decoded: Pixels) -> Figures:
        """The group's figures of a reconstruction."""
        if key not in self._open:
            self._open[key] = self._groups[key].open(self._original)
        return self._open[key](decoded)


def _one(
    photo: EvaluationPhoto, codec: Codec, comparers: _Comparers, cache: PointCache
) -> tuple[list[Point], int]:
    """A photo by a codec: its points, and how many of them needed coding."""
    measured = comparers.keys(codec.groups)
    keys = [_SIZES, *measured]
    known = {key: cache.read(key, photo.digest, codec.identity) for key in keys}
    missing = {knob: [k for k in keys if knob not in known[k]] for knob in codec.knobs}
    wanted = [knob for knob in codec.knobs if missing[knob]]
    if wanted:
        for knob, size, decoded in codec.points(photo.pixels, wanted):
            for key in missing[knob]:
                known[key][knob] = (
                    {"bytes": size} if key == _SIZES else comparers.compare(key, decoded)
                )
        for key in {key for knob in wanted for key in missing[knob]}:
            cache.write(key, photo.digest, codec.identity, known[key])
    area = photo.pixels.shape[0] * photo.pixels.shape[1]
    points = []
    for knob in codec.knobs:
        size = known[_SIZES][knob]["bytes"]
        figures = {name: value for key in measured for name, value in known[key][knob].items()}
        points.append(Point(photo.name, codec.name, knob, size, 8 * size / area, figures))
    return points, len(wanted)

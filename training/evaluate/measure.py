"""The measuring loop: photos times subjects times judges, with what was measured before kept.

photo -- subject --> (bytes, picture or result) -- judge --> figures, cached by photo and subject
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from shared.results import TaskResult
from training.evaluate.curves import Floats
from training.evaluate.photos import EvaluationPhoto, Pixels

CACHE_VARIABLE = "FEATHERWIRE_BENCH_CACHE"

Figures = dict[str, Any]
"""JSON-ready: numbers by name, None where a photo has nothing to measure; outputs of networks."""
Key = tuple[str, int]
"""A subject's name and one of its operating points."""


@dataclass(frozen=True)
class Coded:
    """A photo at an operating point of a subject.

    bytes: of all files with their headers. picture: what was decoded, uint8 [h, w, 3], of any
    size; result: what a tail says of decoded features, in the photo's pixels. One of the two.
    """

    knob: int
    bytes: int
    picture: Pixels | None = None
    result: TaskResult | None = None


class Subject(Protocol):
    """What is measured: a way from a photo to bytes, and to a picture or a task's result."""

    @property
    def name(self) -> str:
        """What tables and plots call it."""

    @property
    def identity(self) -> str:
        """What results are cached under: changes whenever bytes, pictures or results may."""

    @property
    def knobs(self) -> tuple[int, ...]:
        """Its operating points, the fewest bits first."""

    @property
    def judges(self) -> frozenset[str] | None:
        """Names of the judges that say something about it; None for all."""

    @property
    def makes(self) -> Literal["picture", "result"]:
        """What its points have."""

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo (uint8 [H, W, 3]) at some of the operating points."""


class Judge(Protocol):
    """Says something of a photo at an operating point. ``version`` changes with its figures."""

    @property
    def name(self) -> str:
        """What limits and caches call it."""

    @property
    def version(self) -> str:
        """Changes whenever its figures do."""

    def identity(self, subject: Subject, photo: EvaluationPhoto) -> str:
        """All that figures depend on but the photo's pixels."""

    def open(self, photo: EvaluationPhoto) -> Callable[[Coded], Figures]:
        """What judges versions of the photo; made when it is first needed."""


class FileSizes:
    """``bytes``, for runs whose other judges do not tell them."""

    name, version = "bytes", "1"

    def identity(self, subject: Subject, photo: EvaluationPhoto) -> str:
        """The subject's alone."""
        return subject.identity

    def open(self, photo: EvaluationPhoto) -> Callable[[Coded], Figures]:
        """The size of whole files."""
        return lambda coded: {"bytes": coded.bytes}


@dataclass
class Column:
    """An operating point: bytes and figures of every photo, in the photos' order.

    bits_per_pixel: over the area of the photo.
    """

    bytes: list[int] = field(default_factory=list)
    bits_per_pixel: list[float] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)

    @property
    def rates(self) -> Floats:
        """Bits per pixel, float64 [photos]."""
        return np.array(self.bits_per_pixel)

    @property
    def outputs(self) -> list[Any]:
        """What a network said of every photo, where a judge keeps it."""
        return [figures["output"] for figures in self.figures]


@dataclass
class Measurements:
    """All of a run. photos: without their pixels; sizes: their width and height."""

    photos: list[EvaluationPhoto] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    columns: dict[Key, Column] = field(default_factory=dict)


def measure(
    photos: Iterable[EvaluationPhoto],
    subjects: Sequence[Subject],
    judges: Sequence[Judge],
    *,
    cache: PointCache,
    limits: Mapping[str, int] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Measurements:
    """Measure every photo by every subject at every operating point.

    judges: one of them must tell ``bytes``. limits: a judge's name -> how many photos, from the
    first, it looks at; a slow one need not hold up the others. progress: called with a line a
    photo. Pixels are let go after each photo, so that a set may be larger than memory.
    """
    found = Measurements()
    for number, photo in enumerate(photos):
        chosen = [j for j in judges if number < (limits or {}).get(j.name, number + 1)]
        opened = _Opened(photo, chosen)
        fresh = sum(_one(found, photo, subject, opened, cache) for subject in subjects)
        height, width = photo.pixels.shape[:2]
        found.sizes.append((width, height))
        nothing = np.zeros((0, 0, 3), np.uint8)
        found.photos.append(replace(photo, pixels=nothing, labels=None))
        progress(f"{number + 1} {photo.name}: {fresh} points measured")
    return found


class _Opened:
    """Every judge opened on one photo, when it is first needed."""

    def __init__(self, photo: EvaluationPhoto, judges: Sequence[Judge]) -> None:
        self._photo = photo
        self._judges = {f"{judge.name}-{judge.version}": judge for judge in judges}
        self._open: dict[str, Callable[[Coded], Figures]] = {}

    def of(self, subject: Subject) -> dict[str, Judge]:
        """The judges that say something of the subject, by name with version."""
        names = subject.judges
        return {
            key: judge
            for key, judge in self._judges.items()
            if names is None or judge.name in names
        }

    def figures(self, key: str, coded: Coded) -> Figures:
        if key not in self._open:
            self._open[key] = self._judges[key].open(self._photo)
        return self._open[key](coded)


def _one(
    found: Measurements,
    photo: EvaluationPhoto,
    subject: Subject,
    opened: _Opened,
    cache: PointCache,
) -> int:
    """A photo by a subject; returns how many of its points needed coding."""
    identities = {key: j.identity(subject, photo) for key, j in opened.of(subject).items()}
    known = {key: cache.read(key, photo.digest, name) for key, name in identities.items()}
    missing = {knob: [key for key in known if knob not in known[key]] for knob in subject.knobs}
    wanted = [knob for knob in subject.knobs if missing[knob]]
    if wanted:
        for coded in subject.points(photo.pixels, wanted):
            for key in missing[coded.knob]:
                known[key][coded.knob] = opened.figures(key, coded)
        for key in {key for knob in wanted for key in missing[knob]}:
            cache.write(key, photo.digest, identities[key], known[key])
    area = photo.pixels.shape[0] * photo.pixels.shape[1]
    for knob in subject.knobs:
        figures = {name: value for rows in known.values() for name, value in rows[knob].items()}
        size = int(figures.pop("bytes"))
        column = found.columns.setdefault((subject.name, knob), Column())
        column.bytes.append(size)
        column.bits_per_pixel.append(8 * size / area)
        column.figures.append({name: _compact(value) for name, value in figures.items()})
    return len(wanted)


def _compact(value: Any) -> Any:
    """Rows of numbers as an array, a tenth of their size: five thousand photos fit into memory."""
    rows = isinstance(value, list) and value and isinstance(value[0], list)
    return np.array(value, np.float64) if rows else value


def default_cache_dir() -> Path:
    """``$FEATHERWIRE_BENCH_CACHE``, else ``~/.cache/featherwire/bench``."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache/featherwire/bench"


class PointCache:
    """One small JSON file for each (judge and version, photo, what else figures depend on)."""

    def __init__(self, folder: Path | None) -> None:
        """folder: None keeps nothing."""
        self._folder = folder

    def read(self, judge: str, photo: str, identity: str) -> dict[int, Figures]:
        """Figures by knob; empty when there are none, or the file is damaged."""
        path = self._path(judge, photo, identity)
        if path is None:
            return {}
        try:
            document = json.loads(path.read_text())
            if document["codec"] != identity or document["photo"] != photo:
                return {}
            return {int(knob): dict(figures) for knob, figures in document["points"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def write(self, judge: str, photo: str, identity: str, points: dict[int, Figures]) -> None:
        """Keep the figures; a file appears whole or not at all."""
        path = self._path(judge, photo, identity)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"codec": identity, "photo": photo, "points": points}
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(document))
        partial.replace(path)

    def _path(self, judge: str, photo: str, identity: str) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return self._folder / judge / photo[:24] / f"{name}.json"

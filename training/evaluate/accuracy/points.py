"""Photos times subjects: bytes and outputs, with what was measured before from the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.evaluate.accuracy.base import Kind, Output, Subject
from training.evaluate.bootstrap import Floats
from training.evaluate.cache import PointCache
from training.evaluate.photos import EvaluationPhoto

Key = tuple[str, int]
"""Subject and knob."""


@dataclass
class Column:
    """An operating point: bits of every photo per pixel of its original area, and outputs."""

    bits_per_pixel: list[float] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)

    @property
    def rates(self) -> Floats:
        """float64 [photos]."""
        return np.array(self.bits_per_pixel)


@dataclass
class Points:
    """All of a run, photo by photo; photos without their pixels."""

    photos: list[EvaluationPhoto] = field(default_factory=list)
    columns: dict[Key, Column] = field(default_factory=dict)

    def of(self, subject: str) -> dict[int, Column]:
        """A subject's operating points by knob, in order."""
        return {knob: column for (name, knob), column in self.columns.items() if name == subject}

    @property
    def subjects(self) -> list[str]:
        """In order of measuring."""
        return list(dict.fromkeys(name for name, _ in self.columns))


def measure_points(
    photos: Iterable[EvaluationPhoto],
    subjects: Sequence[Subject],
    kind: Kind,
    *,
    cache: PointCache,
    progress: Callable[[str], None] = lambda text: None,
) -> Points:
    """Every photo by every subject at every operating point. progress: a line a photo.

    Pixels are let go after each photo, so that a set may be larger than memory.
    """
    found = Points()
    for number, photo in enumerate(photos, 1):
        fresh = sum(_one(found, photo, subject, kind, cache) for subject in subjects)
        nothing = np.zeros((0, 0, 3), np.uint8)
        found.photos.append(EvaluationPhoto(photo.name, nothing, photo.truth))
        progress(f"{number} {photo.name}: {fresh} points measured")
    return found


def _one(
    found: Points, photo: EvaluationPhoto, subject: Subject, kind: Kind, cache: PointCache
) -> int:
    group = f"accuracy-{kind.name}-{kind.version}"
    identity = f"{subject.identity}|{_annotation_key(kind, photo)}"
    known = cache.read(group, photo.digest, identity)
    wanted = [knob for knob in subject.knobs if knob not in known]
    for coded in subject.points(photo, wanted) if wanted else ():
        known[coded.knob] = {"bytes": coded.bytes, "output": coded.output}
    if wanted:
        cache.write(group, photo.digest, identity, known)
    area = photo.pixels.shape[0] * photo.pixels.shape[1]
    for knob in subject.knobs:
        column = found.columns.setdefault((subject.name, knob), Column())
        column.bits_per_pixel.append(8 * known[knob]["bytes"] / area)
        output = known[knob]["output"]
        column.outputs.append(_compact(output) if kind.name == "boxes" else output)
    return len(wanted)


def _annotation_key(kind: Kind, photo: EvaluationPhoto) -> str:
    """Outputs of some kinds depend on the annotation: counts of pixels on the label picture."""
    if kind.name != "labels" or photo.labels is None:
        return ""
    return EvaluationPhoto("", np.repeat(photo.labels[:, :, None], 3, 2)).digest[:16]


def _compact(rows: Output) -> Output:
    """A hundred detections in a few kilobytes: five thousand photos fit into memory."""
    return np.array(rows, np.float64).reshape(-1, 6)

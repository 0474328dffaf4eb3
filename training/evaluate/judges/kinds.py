"""Kinds of results (boxes, classes, labels): how each is kept of a photo, and judged over a set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from shared.results import Detection, TaskResult
from shared.results.rle import decode_mask
from training.evaluate.curves import Floats
from training.evaluate.judges.average_precision import (
    AveragePrecision,
    PhotoMatches,
    coco_figures,
    match_photos,
)
from training.evaluate.photos import EvaluationError, EvaluationPhoto

Output = Any
"""What a network said of one photo, JSON-ready: lists of numbers."""
Matched = Any
"""An output beside the truth of its photo, as a judge of the set keeps it."""

KEPT_SCORE = 0.05
"""Detections below take no part in the average precision."""
_CELLS = 8_000_000
"""Resamples times detections that are weighed together, so that memory has a bound."""
KEPT_CLASSES = 5
"""How many of a photo's likeliest classes are kept."""


class SetJudge(Protocol):
    """Says how good outputs are, of a set of photos that it knows."""

    def figures(self, outputs: Sequence[Output]) -> Mapping[str, float | None]:
        """All figures, of every photo's output in the set's order; None where there is none."""

    def matched(self, outputs: Sequence[Output]) -> Sequence[Matched]:
        """What the headline figure needs of every photo: the slow part, once an operating point."""

    def resampled(self, matched: Sequence[Matched], weights: Floats) -> Floats:
        """The headline figure for weights [n, photos], how often each photo counts: [n].

        matched: every photo's, of whichever operating point.
        """


class Kind(Protocol):
    """One kind of result: what of it is kept, and how a set is judged."""

    @property
    def name(self) -> str:
        """As in a tail's manifest: boxes, classes or labels."""

    @property
    def version(self) -> str:
        """Changes whenever the same network would give another output."""

    @property
    def headline(self) -> str:
        """The figure that curves are of."""

    @property
    def label(self) -> str:
        """The headline in words."""

    def output(self, result: TaskResult, photo: EvaluationPhoto) -> Output:
        """What is kept of a result in the photo's own pixels."""

    def judge(self, photos: Sequence[EvaluationPhoto], reference: Sequence[Output]) -> SetJudge:
        """A judge of these photos. reference: the uncompressed network's outputs."""


def kind_of(output: str, ids: Sequence[int] | None = None) -> Kind:
    """The kind of a tail's ``output``, whose classes are ``ids`` (None: any).

    Raises EvaluationError ``unknown_output``.
    """
    kinds: dict[str, Kind] = {kind.name: kind for kind in (Boxes(), Classes(), Labels(ids))}
    if output not in kinds:
        known = ", ".join(kinds)
        raise EvaluationError("unknown_output", f"no kind of output {output!r}; known are {known}")
    return kinds[output]


# -- boxes -----------------------------------------------------------------------------------------


class Boxes:
    """Detection, by COCO's average precision against annotated boxes.

    Outputs are rows [COCO category, score, x, y, width, height], at most 100 a photo.
    """

    name = "boxes"
    version = "1"
    headline = "ap"
    label = "AP, IoU 0.50 to 0.95"

    def output(self, result: TaskResult, photo: EvaluationPhoto) -> Output:
        """In the photo's pixels."""
        return rows(result.detections or ())

    def judge(self, photos: Sequence[EvaluationPhoto], reference: Sequence[Output]) -> BoxJudge:
        """Raises EvaluationError ``no_annotations``."""
        return BoxJudge(photos)


class BoxJudge:
    """Against the photos' annotated boxes."""

    def __init__(self, photos: Sequence[EvaluationPhoto]) -> None:
        """Raises EvaluationError ``no_annotations`` when a photo has none."""
        self._truths = []
        for photo in photos:
            if photo.truth is None:
                raise EvaluationError("no_annotations", f"{photo.name} has no annotated boxes")
            self._truths.append(photo.truth)

    def figures(self, outputs: Sequence[Output]) -> Mapping[str, float | None]:
        """``ap``, ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large``."""
        return coco_figures(self._truths, outputs)

    def matched(self, outputs: Sequence[Output]) -> list[PhotoMatches]:
        """Detections matched to annotated boxes."""
        return match_photos(self._truths, outputs)

    def resampled(self, matched: Sequence[PhotoMatches], weights: Floats) -> Floats:
        """AP, by our own accumulation of the matches, for many weightings at once."""
        precision = AveragePrecision(matched)
        found = sum(len(one.scores) for photo in matched for one in photo)
        step = max(8, _CELLS // max(1, found))
        parts = range(0, len(weights), step)
        return np.concatenate([precision(weights[k : k + step]) for k in parts])


def rows(found: Iterable[Detection]) -> list[list[float]]:
    """Detections as rows of rounded numbers."""
    return [
        [
            one.class_id,
            round(one.score, 5),
            *(round(v, 2) for v in (one.box.x_min, one.box.y_min, one.box.width, one.box.height)),
        ]
        for one in found
    ]


# -- classes ---------------------------------------------------------------------------------------


class Classes:
    """Classification, by agreement with the uncompressed network, which needs no annotations.

    Outputs are the five likeliest classes' ids, the likeliest first.
    """

    name = "classes"
    version = "1"
    headline = "top1"
    label = "top-1 agreement with the uncompressed network"

    def output(self, result: TaskResult, photo: EvaluationPhoto) -> Output:
        """Ids of the manifest's classes."""
        return [one.class_id for one in (result.classes or ())[:KEPT_CLASSES]]

    def judge(self, photos: Sequence[EvaluationPhoto], reference: Sequence[Output]) -> ClassJudge:
        """reference: the uncompressed network's classes."""
        return ClassJudge(reference)


class ClassJudge:
    """Against the uncompressed network's likeliest class."""

    def __init__(self, reference: Sequence[Output]) -> None:
        """reference: its five likeliest, a list a photo."""
        self._first = [ids[0] for ids in reference]

    def figures(self, outputs: Sequence[Output]) -> Mapping[str, float | None]:
        """``top1`` and ``top5``: shares of photos where its class is the first, among five."""
        return {
            "top1": float(self._hits(outputs, 1).mean()),
            "top5": float(self._hits(outputs, KEPT_CLASSES).mean()),
        }

    def matched(self, outputs: Sequence[Output]) -> list[float]:
        """1 where the first class is its first, else 0."""
        return [float(hit) for hit in self._hits(outputs, 1)]

    def resampled(self, matched: Sequence[float], weights: Floats) -> Floats:
        """``top1``."""
        return np.asarray(weights @ np.array(matched) / weights.sum(1))

    def _hits(self, outputs: Sequence[Output], among: int) -> Floats:
        pairs = zip(self._first, outputs, strict=True)
        return np.array([float(wanted in ids[:among]) for wanted, ids in pairs])


# -- labels ----------------------------------------------------------------------------------------


class Labels:
    """Segmentation, by mean IoU against label pictures, from one confusion matrix a photo.

    Outputs are counts of pixels, rows [true class, given class, pixels], zeros left out. Classes
    are ids; true classes that the network does not know (void) do not count.
    """

    name = "labels"
    version = "2"
    headline = "mean_iou"
    label = "mean IoU of classes"

    def __init__(self, ids: Sequence[int] | None = None) -> None:
        """ids: of the classes that the network knows; None for any."""
        self._ids = ids

    def output(self, result: TaskResult, photo: EvaluationPhoto) -> Output:
        """Raises EvaluationError ``no_annotations``."""
        if photo.labels is None:
            raise EvaluationError("no_annotations", f"{photo.name} has no label picture")
        counts = []
        for region in result.regions or ():
            here = photo.labels[decode_mask(region.mask)]
            for true, count in zip(*np.unique(here, return_counts=True), strict=True):
                if self._ids is None or int(true) in self._ids:
                    counts.append([int(true), region.class_id, int(count)])
        return sorted(counts)

    def judge(self, photos: Sequence[EvaluationPhoto], reference: Sequence[Output]) -> LabelJudge:
        """Label pictures went into the outputs already."""
        return LabelJudge()


class LabelJudge:
    """Mean IoU over the classes that are in the photos, as truth or as output."""

    def figures(self, outputs: Sequence[Output]) -> Mapping[str, float | None]:
        """``mean_iou``, and ``pixel_accuracy``, the share of pixels of the right class."""
        right = total = 0
        for counts in outputs:
            right += sum(count for true, given, count in counts if true == given)
            total += sum(count for *_, count in counts)
        mean = float(self.resampled(outputs, np.ones((1, len(outputs))))[0])
        return {
            "mean_iou": None if np.isnan(mean) else mean,
            "pixel_accuracy": right / total if total else None,
        }

    def matched(self, outputs: Sequence[Output]) -> Sequence[Output]:
        """The counts as they are."""
        return outputs

    def resampled(self, matched: Sequence[Output], weights: Floats) -> Floats:
        """``mean_iou``; NaN where no pixel counts."""
        kinds = sorted({kind for counts in matched for row in counts for kind in row[:2]})
        place = {kind: column for column, kind in enumerate(kinds)}
        common, either = (np.zeros((len(matched), len(kinds))) for _ in range(2))
        for photo, counts in enumerate(matched):
            for true, given, count in counts:
                either[photo, place[true]] += count
                if true == given:
                    common[photo, place[true]] += count
                else:
                    either[photo, place[given]] += count
        union = weights @ either
        share = np.divide(weights @ common, union, out=np.full_like(union, np.nan), where=union > 0)
        known = np.isfinite(share)
        total = np.where(known, share, 0.0).sum(1)
        return np.divide(total, known.sum(1), out=np.full(len(weights), np.nan), where=known.any(1))

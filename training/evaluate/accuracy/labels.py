"""Segmentation: mean IoU against label pictures, from one confusion matrix a photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from codec.settings import TailSpec
from shared.preprocess import Placement
from training.evaluate.accuracy.base import Figures, Output
from training.evaluate.bootstrap import Floats
from training.evaluate.photos import EvaluationError, EvaluationPhoto


class Labels:
    """Outputs are counts of pixels, rows [true class, given class, pixels], zeros left out.

    Classes are ids; true classes that the tail does not know (void) do not count.
    """

    name = "labels"
    version = "1"
    headline = "mean_iou"
    label = "mean IoU of classes"

    def of_tail(
        self,
        outputs: Mapping[str, npt.NDArray[np.float32]],
        spec: TailSpec,
        placement: Placement,
        photo: EvaluationPhoto,
    ) -> Output:
        """Scores are enlarged to the photo (bilinear) before the greatest is taken.

        Raises EvaluationError ``no_annotations``.
        """
        if photo.labels is None:
            raise EvaluationError("no_annotations", f"{photo.name} has no label picture")
        ids = np.array([kind.id for kind in spec.classes])
        given = ids[_greatest(outputs["scores"], placement)]
        known = np.isin(photo.labels, ids)
        pairs, counts = np.unique(
            np.stack([photo.labels[known].astype(np.int64), given[known]]),
            axis=1,
            return_counts=True,
        )
        return [[int(a), int(b), int(n)] for (a, b), n in zip(pairs.T, counts, strict=True)]

    def judge(self, photos: Sequence[EvaluationPhoto], reference: Sequence[Output]) -> LabelJudge:
        """Label pictures went into the outputs already."""
        return LabelJudge()


class LabelJudge:
    """Mean IoU over the classes that are in the photos, as truth or as output."""

    def figures(self, outputs: Sequence[Output]) -> Figures:
        """``mean_iou``, and ``pixel_accuracy``, the share of pixels of the right class."""
        right = total = 0
        for rows in outputs:
            right += sum(count for true, given, count in rows if true == given)
            total += sum(count for *_, count in rows)
        mean = float(self.resampled(outputs, np.ones((1, len(outputs))))[0])
        return {
            "mean_iou": None if np.isnan(mean) else mean,
            "pixel_accuracy": right / total if total else None,
        }

    def matched(self, outputs: Sequence[Output]) -> list[Output]:
        """The counts as they are."""
        return list(outputs)

    def resampled(self, matched: Sequence[Output], weights: Floats) -> Floats:
        """``mean_iou``; NaN where no pixel counts."""
        kinds = sorted({kind for rows in matched for row in rows for kind in row[:2]})
        place = {kind: column for column, kind in enumerate(kinds)}
        common, either = (np.zeros((len(matched), len(kinds))) for _ in range(2))
        for photo, rows in enumerate(matched):
            for true, given, count in rows:
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


def _greatest(scores: npt.NDArray[np.float32], placement: Placement) -> npt.NDArray[np.int64]:
    """float32 [K, h, w] over the network's input -> classes of the photo's pixels, int64 [H, W]."""
    kinds, rows, columns = scores.shape
    # Where the photo lies in the input, in positions of the scores.
    box = (
        placement.left * columns / placement.to_width,
        placement.top * rows / placement.to_height,
        (placement.left + placement.inner_width) * columns / placement.to_width,
        (placement.top + placement.inner_height) * rows / placement.to_height,
    )
    best = np.full((placement.height, placement.width), -np.inf, np.float32)
    found = np.zeros(best.shape, np.int64)
    for kind in range(kinds):
        plane = Image.fromarray(np.ascontiguousarray(scores[kind]), mode="F")
        size = (placement.width, placement.height)
        here = np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box=box))
        found[here > best] = kind
        best = np.maximum(best, here)
    return found

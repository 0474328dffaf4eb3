"""Classification: agreement with the uncompressed network, which needs no annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from codec.settings import TailSpec
from shared.preprocess import Placement
from training.evaluate.accuracy.base import Figures, Output
from training.evaluate.bootstrap import Floats
from training.evaluate.photos import EvaluationPhoto

_KEPT = 5


class Classes:
    """Outputs are the five likeliest classes' ids, the likeliest first."""

    name = "classes"
    version = "1"
    headline = "top1"
    label = "top-1 agreement with the uncompressed network"

    def of_tail(
        self,
        outputs: Mapping[str, npt.NDArray[np.float32]],
        spec: TailSpec,
        placement: Placement,
        photo: EvaluationPhoto,
    ) -> Output:
        """Ids of the manifest's classes."""
        order = np.argsort(-outputs["scores"], kind="stable")[:_KEPT]
        return [spec.classes[column].id for column in order]

    def judge(self, photos: Sequence[EvaluationPhoto], reference: Sequence[Output]) -> ClassJudge:
        """reference: the uncompressed network's classes."""
        return ClassJudge(reference)


class ClassJudge:
    """Against the uncompressed network's likeliest class."""

    def __init__(self, reference: Sequence[Output]) -> None:
        """reference: its five likeliest, a list a photo."""
        self._first = [ids[0] for ids in reference]

    def figures(self, outputs: Sequence[Output]) -> Figures:
        """``top1`` and ``top5``: shares of photos where its class is the first, among five."""
        return {
            "top1": float(self._hits(outputs, 1).mean()),
            "top5": float(self._hits(outputs, _KEPT).mean()),
        }

    def matched(self, outputs: Sequence[Output]) -> list[float]:
        """1 where the first class is its first, else 0."""
        return self._hits(outputs, 1).tolist()

    def resampled(self, matched: Sequence[float], weights: Floats) -> Floats:
        """``top1``."""
        return weights @ np.array(matched) / weights.sum(1)

    def _hits(self, outputs: Sequence[Output], among: int) -> Floats:
        pairs = zip(self._first, outputs, strict=True)
        return np.array([float(wanted in ids[:among]) for wanted, ids in pairs])

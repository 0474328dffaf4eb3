"""Probabilities of a tail to the picture's likeliest classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.settings import TailSpec
from shared.results import Classification

MOST_CLASSES = 5


def classifications(scores: NDArray[np.float32], spec: TailSpec) -> list[Classification]:
    """The five likeliest classes, best first.

    scores: float32 [K], probabilities; what rounding put outside 0..1 is cut.
    """
    best = np.argsort(-scores, kind="stable")[:MOST_CLASSES]
    return [
        Classification(
            class_id=spec.classes[column].id,
            class_name=spec.classes[column].name,
            score=float(np.clip(scores[column], 0, 1)),
        )
        for column in best
    ]

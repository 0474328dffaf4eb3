"""Kinds of outputs by name."""

from __future__ import annotations

from training.evaluate.accuracy.base import Kind
from training.evaluate.accuracy.boxes import Boxes
from training.evaluate.accuracy.classes import Classes
from training.evaluate.accuracy.labels import Labels
from training.evaluate.photos import EvaluationError


def kind_of(output: str) -> Kind:
    """The kind of a tail's ``output``. Raises EvaluationError ``unknown_output``."""
    kinds: dict[str, Kind] = {kind.name: kind for kind in (Boxes(), Classes(), Labels())}
    if output not in kinds:
        known = ", ".join(kinds)
        raise EvaluationError("unknown_output", f"no kind of output {output!r}; known are {known}")
    return kinds[output]

"""What commands on files of features, and on weights, print with ``--json``."""

from __future__ import annotations

from typing import Literal

from shared.cli.documents import Document, Rate
from shared.results import AnalysisResult


class Decoded(Rate):
    """A file of features that became a picture."""

    file: str
    picture: str
    width: int
    height: int
    milliseconds: float
    warning: str | None


class Analysed(AnalysisResult):
    """What was found in a file of features, or in a photo."""

    file: str
    passes: int | None
    total_milliseconds: float
    annotated: str | None
    """The picture in which the results are drawn."""
    warning: str | None
    found: str


class Model(Document):
    """A model's weights: whether they are here, and what may be done with them."""

    name: str
    state: Literal["cached", "local", "missing", "invalid"]
    path: str | None
    licence: str
    file_bytes: int | None = None
    sha256: str | None = None
    version: str | None = None
    source: str | None = None
    purpose: str | None = None
    default: bool | None = None


class Models(Document):
    """Models that were asked for."""

    models: list[Model]

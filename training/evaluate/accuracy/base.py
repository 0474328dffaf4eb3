"""What is judged, and by what: one `Kind` for every kind of output that a tail may have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from codec.settings import TailSpec
from shared.preprocess import Placement
from training.evaluate.bootstrap import Floats
from training.evaluate.photos import EvaluationPhoto

Pixels = npt.NDArray[np.uint8]
Output = Any
"""What a network said of one photo, JSON-ready: lists of numbers."""
Matched = Any
"""An output beside the truth of its photo, as a judge keeps it."""
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Coded:
    """A photo at an operating point: bytes of all files with their headers, and the output."""

    knob: int
    bytes: int
    output: Output


class Judge(Protocol):
    """Says how good outputs are, of a set of photos that it knows."""

    def figures(self, outputs: Sequence[Output]) -> Figures:
        """All figures, of every photo's output in the set's order; None where there is none."""

    def matched(self, outputs: Sequence[Output]) -> list[Matched]:
        """What the headline figure needs of every photo: the slow part, once an operating point."""

    def resampled(self, matched: Sequence[Matched], weights: Floats) -> Floats:
        """The headline figure for weights [n, photos], how often each photo counts: [n].

        matched: every photo's, of whichever operating point.
        """


class Kind(Protocol):
    """One kind of output: how it is read, and how it is judged."""

    name: str
    """As in a tail's manifest: boxes, classes or labels."""
    version: str
    """Changes whenever the same network would give another output."""
    headline: str
    """The figure that curves are of."""
    label: str
    """The headline in words."""

    def of_tail(
        self,
        outputs: Mapping[str, npt.NDArray[np.float32]],
        spec: TailSpec,
        placement: Placement,
        photo: EvaluationPhoto,
    ) -> Output:
        """What a tail said of a photo, in the photo's own pixels."""

    def judge(self, photos: Sequence[EvaluationPhoto], reference: Sequence[Output]) -> Judge:
        """A judge of these photos. reference: the uncompressed network's outputs."""


class Network(Protocol):
    """A whole network, for pictures that a codec made."""

    identity: str
    """What its outputs are cached under."""
    input_size: tuple[int, int] | None
    """(width, height) in pixels that pictures are brought to; None when they keep their size."""

    def prepare(self, picture: Pixels) -> Pixels:
        """The picture at the input's size, uint8 [h, w, 3]: what the network would look at."""

    def run(self, picture: Pixels, photo: EvaluationPhoto) -> Output:
        """Its output for a version of the photo of any size, in the photo's own pixels."""


class Subject(Protocol):
    """What is measured: a way from a photo to a network's output at several operating points."""

    @property
    def name(self) -> str:
        """What tables and plots call it."""

    @property
    def identity(self) -> str:
        """What its points are cached under; changes whenever bytes or outputs may."""

    @property
    def knobs(self) -> tuple[int, ...]:
        """Its operating points, the fewest bits first."""

    def points(self, photo: EvaluationPhoto, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo at some of the operating points."""

"""What becomes of a frame, as plain values that the engine makes and the edge receives."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from shared.errors import FeatherwireError
from shared.results import AnalysisResult


class PictureEncoding(StrEnum):
    """How a reconstruction is encoded on its way back."""

    PNG = "png"
    WEBP = "webp"
    WEBP_LOSSLESS = "webp_lossless"

    @property
    def suffix(self) -> str:
        """File name suffix with its dot."""
        return ".png" if self is PictureEncoding.PNG else ".webp"


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """Asks for the reconstruction; ``quality`` is 1..100 for lossy WebP, 0 is the server's."""

    encoding: PictureEncoding = PictureEncoding.PNG
    quality: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded reconstruction of ``width`` x ``height`` pixels."""

    encoding: PictureEncoding
    width: int
    height: int
    data: bytes


@dataclass(frozen=True, slots=True)
class FrameOutcome:
    """What was found in one frame, or why nothing could be: exactly one of analysis and error.

    ``task_errors`` holds, by name, the tasks that failed on this frame while others did not.
    """

    analysis: AnalysisResult | None = None
    error: FeatherwireError | None = None
    task_errors: dict[str, FeatherwireError] = field(default_factory=dict)
    picture: Picture | None = None
    picture_error: FeatherwireError | None = None

    def __post_init__(self) -> None:
        if (self.analysis is None) == (self.error is None):
            raise ValueError("an outcome has either an analysis or an error")

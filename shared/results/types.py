"""What vision tasks find in a picture, as values that validate themselves and become JSON.

Coordinates are in pixels of the original picture, x to the right, y down, the origin at the upper
left corner of the upper left pixel. Times are milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Finite = Annotated[float, Field(allow_inf_nan=False)]
Score = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Point = tuple[Finite, Finite]
Landmark = tuple[Finite, Finite, Finite]


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Box(_Result):
    """Axis-aligned box; ``x_min <= x_max`` and ``y_min <= y_max``, in pixels."""

    x_min: Finite
    y_min: Finite
    x_max: Finite
    y_max: Finite

    @model_validator(mode="after")
    def _check_order(self) -> Box:
        if self.x_min > self.x_max or self.y_min > self.y_max:
            raise ValueError("a box needs x_min <= x_max and y_min <= y_max")
        return self

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.x_max - self.x_min

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.y_max - self.y_min

    @property
    def area(self) -> float:
        """In square pixels."""
        return self.width * self.height


class Detection(_Result):
    """An object in its box: class, and how sure the model is (``score``, 0..1)."""

    box: Box
    class_id: int = Field(ge=0)
    class_name: str
    score: Score


class RleMask(_Result):
    """A binary mask in COCO's compressed run-length code.

    ``size`` is [height, width]; ``counts`` are column-major runs, background first
    (``shared.results.rle`` reads them, and says what is wrong with damaged ones).
    """

    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    counts: str


class Instance(_Result):
    """An object as :class:`Detection` has it, with the mask of its pixels in the whole picture."""

    box: Box
    class_id: int = Field(ge=0)
    class_name: str
    score: Score
    mask: RleMask


class Face(_Result):
    """A face: its box, key points and landmarks.

    ``key_points`` are the detector's own (right eye, left eye, nose tip, mouth, right ear,
    left ear; the person's right); ``landmarks`` the mesh's, (x, y, z) with z at the scale of x,
    relative to the middle of the head, smaller nearer to the camera.
    """

    box: Box
    score: Score
    key_points: tuple[Point, ...] = ()
    landmarks: tuple[Landmark, ...] = ()


class Classification(_Result):
    """A class that the whole picture may belong to; ``score`` is its probability."""

    class_id: int = Field(ge=0)
    class_name: str
    score: Score


class Region(_Result):
    """All pixels of one class, of which there may be several pieces; ``mask`` is of the whole
    picture, and ``share`` the part of the picture that it covers, 0..1.
    """

    class_id: int = Field(ge=0)
    class_name: str
    share: Score
    mask: RleMask


class ModelInfo(_Result):
    """Which weights produced a result; no hash where a back end has no single file."""

    name: str
    version: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    licence: str


Found = list[Detection] | list[Instance] | list[Face] | list[Classification] | list[Region]


class TaskResult(_Result):
    """What one task found in one picture; exactly one of the five lists is not None.

    ``classes`` are the picture's, best first; ``regions`` divide it by class, the largest first.
    """

    task: str
    model: list[ModelInfo]
    detections: list[Detection] | None = None
    instances: list[Instance] | None = None
    faces: list[Face] | None = None
    classes: list[Classification] | None = None
    regions: list[Region] | None = None
    milliseconds: dict[str, Milliseconds] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_one_list(self) -> TaskResult:
        if sum(found is not None for found in self._lists) != 1:
            raise ValueError(
                "a task result has detections, instances, faces, classes or regions: exactly one"
            )
        scores = [found.score for found in self.classes or ()]
        if scores != sorted(scores, reverse=True):
            raise ValueError("classes come best first")
        return self

    @property
    def found(self) -> Found:
        """The list that the task filled."""
        for objects in self._lists:
            if objects is not None:
                return objects
        raise AssertionError("unreachable: validated")

    @property
    def _lists(self) -> tuple[Found | None, ...]:
        return (self.detections, self.instances, self.faces, self.classes, self.regions)


class AnalysisResult(_Result):
    """Everything found in one picture; ``state`` and ``bundle_id`` are None for a plain photo."""

    width: int = Field(ge=1)
    height: int = Field(ge=1)
    state: int | None = Field(default=None, ge=0)
    bundle_id: str | None = None
    payload_bytes: int = Field(ge=0)
    bits_per_pixel: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    tasks: dict[str, TaskResult] = Field(default_factory=dict)
    milliseconds: dict[str, Milliseconds] = Field(default_factory=dict)
    unchanged_since: int | None = Field(default=None, ge=1)
    """Sequence of the frame that was analysed in this one's place: no value has changed since."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; what a task does not produce, and what does not hold, is left out."""
        values = self.model_dump(mode="json")
        if self.unchanged_since is None:
            del values["unchanged_since"]
        values["tasks"] = {
            name: result.model_dump(mode="json", exclude_none=True)
            for name, result in self.tasks.items()
        }
        return values

"""What becomes of a frame, and its conversion to messages and back.

A receiver believes nothing: counts, names and sizes are compared with limits, and the values pass
through the pydantic models of ``shared.results``, which refuse NaN and what contradicts itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from shared.errors import FeatherwireError, SessionError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import types_pb2 as pb
from shared.results import (
    AnalysisResult,
    Box,
    Classification,
    Detection,
    Face,
    Instance,
    ModelInfo,
    Region,
    RleMask,
    TaskResult,
)
from shared.wire.failures import error_from_message, error_to_message
from shared.wire.requests import MAX_TASKS, NUMBER_BY_ENCODING, PictureEncoding
from shared.wire.transport import MAX_PICTURE_BYTES

Model = TypeVar("Model", bound=BaseModel)

MAX_OBJECTS = 10_000
"""Detections, instances, faces or classes of one task in one picture."""

MAX_REGIONS = 256
"""Regions of one task in one picture: each has a mask of all of it."""

MAX_POINTS = 10_000
"""Landmarks of one face."""

MAX_MODELS = 16
MAX_STAGES = 64
MAX_MASK_CHARACTERS = 4 * 2**20
MAX_NAME_CHARACTERS = 256

_ENCODING_BY_NUMBER: dict[int, PictureEncoding] = {
    number: encoding for encoding, number in NUMBER_BY_ENCODING.items()
}


# -- outcome -------------------------------------------------------------------------------------


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


def outcome_to_message(outcome: FrameOutcome) -> pb.FrameOutcome:
    """``outcome`` as its message."""
    message = pb.FrameOutcome()
    if outcome.analysis is not None:
        message.analysis.CopyFrom(analysis_to_message(outcome.analysis))
    elif outcome.error is not None:
        message.error.CopyFrom(error_to_message(outcome.error))
    for name, error in outcome.task_errors.items():
        message.task_errors[name].CopyFrom(error_to_message(error))
    if outcome.picture is not None:
        picture = outcome.picture
        message.picture.encoding = NUMBER_BY_ENCODING[picture.encoding]
        message.picture.width = picture.width
        message.picture.height = picture.height
        message.picture.data = picture.data
    if outcome.picture_error is not None:
        message.picture_error.CopyFrom(error_to_message(outcome.picture_error))
    return message


def outcome_from_message(message: pb.FrameOutcome, limits: Limits = DEFAULT_LIMITS) -> FrameOutcome:
    """Check and convert; raises ``SessionError("invalid_result")``."""
    _at_most("task_errors", len(message.task_errors), MAX_TASKS)
    task_errors = {
        _name(name): error_from_message(message.task_errors[name])
        for name in sorted(message.task_errors)
    }
    which = message.WhichOneof("outcome")
    analysis: AnalysisResult | None = None
    error: FeatherwireError | None = None
    if which == "analysis":
        analysis = analysis_from_message(message.analysis, limits)
    elif which == "error":
        error = error_from_message(message.error)
    else:
        raise _invalid("the outcome is empty")
    return FrameOutcome(
        analysis=analysis,
        error=error,
        task_errors=task_errors,
        picture=_picture(message.picture, limits) if message.HasField("picture") else None,
        picture_error=(
            error_from_message(message.picture_error) if message.HasField("picture_error") else None
        ),
    )


def _picture(message: pb.Picture, limits: Limits) -> Picture:
    encoding = _ENCODING_BY_NUMBER.get(message.encoding)
    if encoding is None:
        raise _invalid(f"the picture's encoding {message.encoding} is unknown")
    for pixels in (message.width, message.height):
        if not limits.min_side <= pixels <= limits.max_side:
            raise _invalid(f"the picture is {message.width}x{message.height} pixels")
    if not 0 < len(message.data) <= MAX_PICTURE_BYTES:
        raise _invalid(f"the picture takes {len(message.data)} bytes")
    return Picture(encoding, message.width, message.height, message.data)


# -- analysis ------------------------------------------------------------------------------------


def analysis_to_message(analysis: AnalysisResult) -> pb.AnalysisResult:
    """``analysis`` as its message."""
    message = pb.AnalysisResult(
        width=analysis.width,
        height=analysis.height,
        payload_bytes=analysis.payload_bytes,
        bits_per_pixel=analysis.bits_per_pixel,
        milliseconds=analysis.milliseconds,
    )
    if analysis.state is not None:
        message.state = analysis.state
    if analysis.bundle_id is not None:
        message.bundle_id = analysis.bundle_id
    for name, result in analysis.tasks.items():
        message.tasks[name].CopyFrom(task_to_message(result))
    return message


def analysis_from_message(
    message: pb.AnalysisResult, limits: Limits = DEFAULT_LIMITS
) -> AnalysisResult:
    """Check and convert; raises ``SessionError("invalid_result")``."""
    for pixels in (message.width, message.height):
        if not limits.min_side <= pixels <= limits.max_side:
            raise _invalid(f"the picture is {message.width}x{message.height} pixels")
    _at_most("tasks", len(message.tasks), MAX_TASKS)
    tasks = {_name(name): task_from_message(message.tasks[name]) for name in sorted(message.tasks)}
    for name, result in tasks.items():
        for item in (*(result.instances or ()), *(result.regions or ())):
            if item.mask.size != (message.height, message.width):
                raise _invalid(f"a mask of {name} has size {item.mask.size}")
    return _build(
        AnalysisResult,
        width=message.width,
        height=message.height,
        state=message.state if message.HasField("state") else None,
        bundle_id=message.bundle_id if message.HasField("bundle_id") else None,
        payload_bytes=message.payload_bytes,
        bits_per_pixel=_finite(message.bits_per_pixel),
        tasks=tasks,
        milliseconds=_milliseconds(message.milliseconds),
    )


def task_to_message(result: TaskResult) -> pb.TaskResult:
    """``result`` as its message."""
    message = pb.TaskResult(
        task=result.task,
        models=[model_to_message(model) for model in result.model],
        milliseconds=result.milliseconds,
    )
    if result.detections is not None:
        message.output = pb.TASK_OUTPUT_DETECTIONS
        message.detections.extend(_detection_message(item) for item in result.detections)
    elif result.instances is not None:
        message.output = pb.TASK_OUTPUT_INSTANCES
        message.instances.extend(_instance_message(item) for item in result.instances)
    elif result.faces is not None:
        message.output = pb.TASK_OUTPUT_FACES
        message.faces.extend(_face_message(item) for item in result.faces)
    elif result.classes is not None:
        message.output = pb.TASK_OUTPUT_CLASSES
        message.classes.extend(_classification_message(item) for item in result.classes)
    elif result.regions is not None:
        message.output = pb.TASK_OUTPUT_REGIONS
        message.regions.extend(_region_message(item) for item in result.regions)
    return message


def task_from_message(message: pb.TaskResult) -> TaskResult:
    """Check and convert; raises ``SessionError("invalid_result")``."""
    for items in (message.detections, message.instances, message.faces, message.classes):
        _at_most("objects", len(items), MAX_OBJECTS)
    _at_most("regions", len(message.regions), MAX_REGIONS)
    _at_most("models", len(message.models), MAX_MODELS)
    fields: dict[str, Any] = {}
    match message.output:
        case pb.TASK_OUTPUT_DETECTIONS:
            fields["detections"] = [_detection(item) for item in message.detections]
        case pb.TASK_OUTPUT_INSTANCES:
            fields["instances"] = [_instance(item) for item in message.instances]
        case pb.TASK_OUTPUT_FACES:
            fields["faces"] = [_face(item) for item in message.faces]
        case pb.TASK_OUTPUT_CLASSES:
            fields["classes"] = [_classification(item) for item in message.classes]
        case pb.TASK_OUTPUT_REGIONS:
            fields["regions"] = [_region(item) for item in message.regions]
        case pb.TASK_OUTPUT_UNSPECIFIED:
            pass
        case _:
            raise _invalid(f"the task's output {message.output} is unknown")
    return _build(
        TaskResult,
        task=_name(message.task),
        model=[model_from_message(item) for item in message.models],
        milliseconds=_milliseconds(message.milliseconds),
        **fields,
    )


def model_to_message(model: ModelInfo) -> pb.ModelInfo:
    """``model`` as its message."""
    message = pb.ModelInfo(name=model.name, version=model.version, licence=model.licence)
    if model.sha256 is not None:
        message.sha256 = model.sha256
    return message


def model_from_message(message: pb.ModelInfo) -> ModelInfo:
    """Check and convert; raises ``SessionError("invalid_result")``."""
    return _build(
        ModelInfo,
        name=_name(message.name),
        version=_name(message.version),
        sha256=_name(message.sha256) if message.HasField("sha256") else None,
        licence=_name(message.licence),
    )


# -- objects -------------------------------------------------------------------------------------


def _box_message(box: Box) -> pb.Box:
    return pb.Box(x_min=box.x_min, y_min=box.y_min, x_max=box.x_max, y_max=box.y_max)


def _box(message: pb.Box) -> Box:
    return _build(
        Box,
        x_min=_finite(message.x_min),
        y_min=_finite(message.y_min),
        x_max=_finite(message.x_max),
        y_max=_finite(message.y_max),
    )


def _detection_message(item: Detection) -> pb.Detection:
    return pb.Detection(
        box=_box_message(item.box),
        class_id=item.class_id,
        class_name=item.class_name,
        score=item.score,
    )


def _detection(message: pb.Detection) -> Detection:
    return _build(
        Detection,
        box=_box(message.box),
        class_id=message.class_id,
        class_name=_name(message.class_name),
        score=_finite(message.score),
    )


def _instance_message(item: Instance) -> pb.Instance:
    return pb.Instance(
        box=_box_message(item.box),
        class_id=item.class_id,
        class_name=item.class_name,
        score=item.score,
        mask=_mask_message(item.mask),
    )


def _instance(message: pb.Instance) -> Instance:
    return _build(
        Instance,
        box=_box(message.box),
        class_id=message.class_id,
        class_name=_name(message.class_name),
        score=_finite(message.score),
        mask=_mask(message.mask),
    )


def _mask_message(mask: RleMask) -> pb.RleMask:
    height, width = mask.size
    return pb.RleMask(height=height, width=width, counts=mask.counts)


def _mask(message: pb.RleMask) -> RleMask:
    _at_most("mask characters", len(message.counts), MAX_MASK_CHARACTERS)
    return _build(RleMask, size=(message.height, message.width), counts=message.counts)


def _classification_message(item: Classification) -> pb.Classification:
    return pb.Classification(class_id=item.class_id, class_name=item.class_name, score=item.score)


def _classification(message: pb.Classification) -> Classification:
    return _build(
        Classification,
        class_id=message.class_id,
        class_name=_name(message.class_name),
        score=_finite(message.score),
    )


def _region_message(item: Region) -> pb.ClassRegion:
    return pb.ClassRegion(
        class_id=item.class_id,
        class_name=item.class_name,
        share=item.share,
        mask=_mask_message(item.mask),
    )


def _region(message: pb.ClassRegion) -> Region:
    return _build(
        Region,
        class_id=message.class_id,
        class_name=_name(message.class_name),
        share=_finite(message.share),
        mask=_mask(message.mask),
    )


def _face_message(item: Face) -> pb.Face:
    return pb.Face(
        box=_box_message(item.box),
        score=item.score,
        key_points=[pb.Point(x=x, y=y) for x, y in item.key_points],
        landmarks=[pb.Landmark(x=x, y=y, z=z) for x, y, z in item.landmarks],
    )


def _face(message: pb.Face) -> Face:
    _at_most("landmarks", len(message.landmarks) + len(message.key_points), MAX_POINTS)
    return _build(
        Face,
        box=_box(message.box),
        score=_finite(message.score),
        key_points=[(_finite(point.x), _finite(point.y)) for point in message.key_points],
        landmarks=[
            (_finite(point.x), _finite(point.y), _finite(point.z)) for point in message.landmarks
        ],
    )


# -- checks --------------------------------------------------------------------------------------


def _build(model: type[Model], /, **fields: Any) -> Model:
    """A pydantic model, its complaints turned into ``SessionError``."""
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _invalid(f"{model.__name__} {where}: {first['msg']}") from None


def _milliseconds(times: Mapping[str, float]) -> dict[str, float]:
    _at_most("stages", len(times), MAX_STAGES)
    return {_name(name): _finite(times[name]) for name in sorted(times)}


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise _invalid(f"{number} is no finite number")
    return number


def _name(text: str) -> str:
    if len(text) > MAX_NAME_CHARACTERS:
        raise _invalid(f"a name has {len(text)} characters")
    return text


def _at_most(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise _invalid(f"{count} {what}, more than {limit}")


def _invalid(complaint: str) -> SessionError:
    return SessionError("invalid_result", f"a result that cannot be: {complaint}")

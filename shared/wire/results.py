"""What becomes of a frame, and its conversion to messages and back.

A receiver believes nothing: counts, names and sizes are compared with limits, and the values pass
through the pydantic models of ``shared.results``, which refuse NaN and what contradicts itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar

from google.protobuf.message import Message
from pydantic import BaseModel, ValidationError

from shared.errors import FeatherwireError, SessionError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import types_pb2 as pb
from shared.results import (
    AnalysisResult,
    Box,
    ModelInfo,
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

_LISTS: dict[pb.TaskOutput.ValueType, tuple[str, int]] = {
    pb.TASK_OUTPUT_DETECTIONS: ("detections", MAX_OBJECTS),
    pb.TASK_OUTPUT_INSTANCES: ("instances", MAX_OBJECTS),
    pb.TASK_OUTPUT_FACES: ("faces", MAX_OBJECTS),
    pb.TASK_OUTPUT_CLASSES: ("classes", MAX_OBJECTS),
    pb.TASK_OUTPUT_REGIONS: ("regions", MAX_REGIONS),
}
"""A task fills one of these lists, which have the same name in messages and values."""

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
        picture=picture_from_message(message.picture, limits)
        if message.HasField("picture")
        else None,
        picture_error=(
            error_from_message(message.picture_error) if message.HasField("picture_error") else None
        ),
    )


def picture_from_message(message: pb.Picture, limits: Limits = DEFAULT_LIMITS) -> Picture:
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
    if analysis.unchanged_since is not None:
        message.unchanged_since = analysis.unchanged_since
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
        unchanged_since=message.unchanged_since if message.HasField("unchanged_since") else None,
    )


def task_to_message(result: TaskResult) -> pb.TaskResult:
    """``result`` as its message."""
    message = pb.TaskResult(
        task=result.task,
        models=[model_to_message(model) for model in result.model],
        milliseconds=result.milliseconds,
    )
    for output, (name, _) in _LISTS.items():
        found = getattr(result, name)
        if found is not None:
            message.output = output
            objects = getattr(message, name)
            for item in found:
                objects.add(**{field: _plain(value) for field, value in item})
    return message


def task_from_message(message: pb.TaskResult) -> TaskResult:
    """Check and convert; raises ``SessionError("invalid_result")``."""
    for name, limit in _LISTS.values():
        _at_most(name, len(getattr(message, name)), limit)
    for face in message.faces:
        _at_most("landmarks", len(face.landmarks) + len(face.key_points), MAX_POINTS)
    _at_most("models", len(message.models), MAX_MODELS)
    found: dict[str, Any] = {}
    if message.output in _LISTS:
        name, _ = _LISTS[message.output]
        found[name] = [_fields(item) for item in getattr(message, name)]
    elif message.output != pb.TASK_OUTPUT_UNSPECIFIED:
        raise _invalid(f"the task's output {message.output} is unknown")
    return _build(
        TaskResult,
        task=_name(message.task),
        model=[_fields(item) for item in message.models],
        milliseconds=_milliseconds(message.milliseconds),
        **found,
    )


def model_to_message(model: ModelInfo) -> pb.ModelInfo:
    """``model`` as its message."""
    return pb.ModelInfo(**dict(model))


def model_from_message(message: pb.ModelInfo) -> ModelInfo:
    """Check and convert; raises ``SessionError("invalid_result")``."""
    return _build(ModelInfo, **_fields(message))


# -- objects: what messages and values call the same, field by field -------------------------------


def _plain(value: object) -> object:
    """A value's field as the constructor of its message takes it."""
    match value:
        case RleMask(size=(height, width), counts=counts):
            return {"height": height, "width": width, "counts": counts}
        case Box():
            return dict(value)
        case tuple():  # key points and landmarks
            return [dict(zip("xyz", point, strict=False)) for point in value]
        case _:
            return value


def _fields(message: Message) -> dict[str, Any]:
    """The fields of an object's message, checked, without those that are absent."""
    return {
        field.name: _checked(getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if field.message_type is not None or not field.has_presence or message.HasField(field.name)
    }


def _checked(value: Any) -> Any:
    match value:
        case str():
            return _name(value)
        case float():
            return _finite(value)
        case pb.Box():
            return _fields(value)
        case pb.RleMask():
            _at_most("mask characters", len(value.counts), MAX_MASK_CHARACTERS)
            return {"size": (value.height, value.width), "counts": value.counts}
        case int():
            return value
        case _:  # key points and landmarks, whose values pydantic checks
            if not value:
                return []
            point = attrgetter(*(field.name for field in value[0].DESCRIPTOR.fields))
            return [point(one) for one in value]


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

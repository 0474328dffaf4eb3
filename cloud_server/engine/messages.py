"""What an engine is asked and what it answers, as messages between a server and its workers."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from cloud_server.engine.api import Decoded, EngineFrame, EngineOutcome, TaskStatus
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import types_pb2, worker_pb2
from shared.wire import error_from_message, error_to_message
from shared.wire.features import features_message, parse_features
from shared.wire.requests import parse_picture_request, picture_request_message
from shared.wire.results import (
    model_from_message,
    model_to_message,
    outcome_from_message,
    outcome_to_message,
)


def frame_to_message(frame: EngineFrame, number: int, deadline_s: float) -> worker_pb2.AnalyseFrame:
    """``frame`` as its message; ``number`` is its id, ``deadline_s`` what is left of its time."""
    return worker_pb2.AnalyseFrame(
        id=number,
        features=[features_message(one) for one in frame.bitstreams],
        tasks=frame.tasks,
        picture=picture_request_message(frame.picture),
        deadline_s=deadline_s,
        refined_short_id=frame.refined or b"",
        decoded=[b"" if one is None else one.pack() for one in frame.decoded],
        stream=frame.stream,
    )


def frame_from_message(message: worker_pb2.AnalyseFrame) -> EngineFrame:
    """The frame again. Raises ``BitstreamError``."""
    return EngineFrame(
        tuple(parse_features(one) for one in message.features),
        tuple(message.tasks),
        parse_picture_request(message.picture) if message.HasField("picture") else None,
        message.deadline_s,
        message.refined_short_id or None,
        tuple(Decoded(packed=one) if one else None for one in message.decoded),
        stream=message.stream,
    )


def outcome_message(number: int, outcome: EngineOutcome) -> worker_pb2.FrameAnalysed:
    """What became of frame ``number``."""
    return worker_pb2.FrameAnalysed(
        id=number, outcome=outcome_to_message(outcome), doubts=outcome.doubts
    )


def outcome_of(message: worker_pb2.FrameAnalysed, waited_ms: float) -> EngineOutcome:
    """The outcome again; ``waited_ms`` are added to what it took. Raises ``SessionError``."""
    outcome = outcome_from_message(message.outcome)
    values = {one.name: getattr(outcome, one.name) for one in dataclasses.fields(outcome)}
    analysis = outcome.analysis
    if analysis is not None:
        times = dict(analysis.milliseconds)
        for name in ("queue", "total"):
            if name in times:
                times[name] += waited_ms
        values["analysis"] = analysis.model_copy(update={"milliseconds": times})
    return EngineOutcome(**values, doubts=tuple(message.doubts))


def task_message(task: TaskStatus) -> worker_pb2.WorkerTask:
    """A task's state."""
    return worker_pb2.WorkerTask(
        name=task.name,
        models=[model_to_message(model) for model in task.models],
        unavailable=_error(task.unavailable),
        on_pictures=task.on_pictures,
        on_features=task.on_features,
        picture_error=_error(task.picture_error),
    )


def task_of(message: worker_pb2.WorkerTask) -> TaskStatus:
    """A task's state again."""
    return TaskStatus(
        message.name,
        tuple(model_from_message(model) for model in message.models),
        error_from_message(message.unavailable) if message.HasField("unavailable") else None,
        message.on_pictures,
        message.on_features,
        error_from_message(message.picture_error) if message.HasField("picture_error") else None,
    )


def _error(error: FeatherwireError | None) -> types_pb2.Error | None:
    return None if error is None else error_to_message(error)


M = TypeVar("M", bound=Message)

_LENGTH_BYTES = 4
MAX_BYTES = 512 * 2**20
"""Longer messages are taken for a damaged stream."""


def packed(message: Message) -> bytes:
    """``message`` as it goes over the socket."""
    data = message.SerializeToString()
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


async def read(reader: asyncio.StreamReader, kind: type[M]) -> M | None:
    """The next message; None when the other end has gone, or what it sends is damaged."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        if length > MAX_BYTES:
            return None
        return kind.FromString(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError, DecodeError):
        return None

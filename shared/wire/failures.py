"""Errors on the wire and back: the same class, reason, message and details at the other end."""

from __future__ import annotations

import json
import re
from typing import Any

from shared.errors import (
    BitstreamError,
    BudgetError,
    BundleError,
    FeatherwireError,
    ModelError,
    PhotoError,
    SessionError,
    StorageError,
    TaskError,
)
from shared.proto.featherwire.v1 import types_pb2 as pb

MAX_MESSAGE_CHARACTERS = 1_000
MAX_DETAILS = 16
MAX_DETAIL_CHARACTERS = 500

RETRYABLE_REASONS = frozenset(
    {
        "busy",
        "deadline_exceeded",
        "disk_full",
        "draining",
        "log_unavailable",
        "quota_exceeded",
        "slow_subscriber",
        "superseded",
        "too_many_streams",
        "unavailable",
        "unreachable",
    }
)
"""Reasons after which the same request may succeed when it is sent again, unchanged."""

_CLASS_BY_KIND: dict[pb.ErrorKind.ValueType, type[FeatherwireError]] = {
    pb.ERROR_KIND_BITSTREAM: BitstreamError,
    pb.ERROR_KIND_BUNDLE: BundleError,
    pb.ERROR_KIND_PHOTO: PhotoError,
    pb.ERROR_KIND_BUDGET: BudgetError,
    pb.ERROR_KIND_MODEL: ModelError,
    pb.ERROR_KIND_TASK: TaskError,
    pb.ERROR_KIND_SESSION: SessionError,
    pb.ERROR_KIND_STORAGE: StorageError,
}
_REASON = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DETAIL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def error_to_message(error: FeatherwireError) -> pb.Error:
    """``Error`` for ``error``; long texts are cut, to fit into a call's trailing metadata."""
    message = pb.Error(
        kind=_kind_of(error),
        reason=error.reason if _REASON.fullmatch(error.reason) else "unknown",
        message=_valid_text(error.message)[:MAX_MESSAGE_CHARACTERS],
        retryable=error.reason in RETRYABLE_REASONS,
    )
    for name, value in list(error.details.items())[:MAX_DETAILS]:
        if _DETAIL_NAME.fullmatch(name):
            text = json.dumps(value, default=str)
            message.details[name] = text[:MAX_DETAIL_CHARACTERS]
    return message


def error_from_message(message: pb.Error) -> FeatherwireError:
    """The error that a peer reports; whatever it sent, this returns one and never raises.

    Unknown kinds become ``FeatherwireError``; a malformed reason becomes ``unknown``.
    """
    kind = _CLASS_BY_KIND.get(message.kind, FeatherwireError)
    reason = message.reason if _REASON.fullmatch(message.reason) else "unknown"
    error = kind(reason, message.message[:MAX_MESSAGE_CHARACTERS])
    for name in sorted(message.details)[:MAX_DETAILS]:
        if _DETAIL_NAME.fullmatch(name):
            error.details[name] = _detail_value(message.details[name])
    # The message has these already; the constructors would add them again.
    if isinstance(error, BitstreamError):
        offset = error.details.get("offset")
        error.offset = offset if isinstance(offset, int) else None
    if isinstance(error, ModelError):
        command = error.details.get("command")
        error.command = command if isinstance(command, str) else None
    return error


def is_retryable(error: FeatherwireError) -> bool:
    """Whether the same request may succeed when it is sent again, unchanged."""
    return error.reason in RETRYABLE_REASONS


def _kind_of(error: FeatherwireError) -> pb.ErrorKind.ValueType:
    for kind, error_class in _CLASS_BY_KIND.items():
        if isinstance(error, error_class):
            return kind
    return pb.ERROR_KIND_UNSPECIFIED


def _detail_value(text: str) -> Any:
    text = text[:MAX_DETAIL_CHARACTERS]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # cut, or no JSON: still worth showing


def _valid_text(text: str) -> str:
    """``text`` without lone surrogates (a file name may have them), which protobuf refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")

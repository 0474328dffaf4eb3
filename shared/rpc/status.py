"""Errors as gRPC statuses; the typed error travels in the trailing metadata."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc

from shared.errors import FeatherwireError
from shared.wire import error_to_message
from shared.wire.transport import ERROR_METADATA_KEY

_CODE_BY_REASON = {
    "bundle_mismatch": grpc.StatusCode.FAILED_PRECONDITION,
    "budget_too_small": grpc.StatusCode.OUT_OF_RANGE,
    "busy": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "credits_exceeded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "cursor_expired": grpc.StatusCode.OUT_OF_RANGE,
    "deadline_exceeded": grpc.StatusCode.DEADLINE_EXCEEDED,
    "disk_full": grpc.StatusCode.UNAVAILABLE,
    "draining": grpc.StatusCode.UNAVAILABLE,
    "engine_closed": grpc.StatusCode.UNAVAILABLE,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "internal_error": grpc.StatusCode.INTERNAL,
    "log_unavailable": grpc.StatusCode.UNAVAILABLE,
    "no_hello": grpc.StatusCode.FAILED_PRECONDITION,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "quota_exceeded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "slow_consumer": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "slow_subscriber": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "superseded": grpc.StatusCode.ABORTED,
    "token_expired": grpc.StatusCode.UNAUTHENTICATED,
    "token_revoked": grpc.StatusCode.UNAUTHENTICATED,
    "too_many_commands": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "too_many_streams": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "unknown_cursor": grpc.StatusCode.OUT_OF_RANGE,
    "unsupported_version": grpc.StatusCode.FAILED_PRECONDITION,
    "worker_crashed": grpc.StatusCode.INTERNAL,
    "wrong_device": grpc.StatusCode.PERMISSION_DENIED,
}


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: FeatherwireError) -> NoReturn:
    """End the call with ``error``; a reason without a code of its own is the client's mistake."""
    code = _CODE_BY_REASON.get(error.reason, grpc.StatusCode.INVALID_ARGUMENT)
    message = error_to_message(error)
    metadata = ((ERROR_METADATA_KEY, message.SerializeToString()),)
    await context.abort(code, f"{message.message[:500]} [{error.reason}]", metadata)
    raise AssertionError("abort raises")

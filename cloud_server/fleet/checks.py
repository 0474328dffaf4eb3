"""What operators ask, checked."""

from __future__ import annotations

import math
from collections.abc import Collection

from shared.errors import BundleError, SessionError, TaskError
from shared.proto.featherwire.v1 import fleet_pb2
from shared.wire.commands import parse_regions
from shared.wire.features import MAX_STATE, parse_short_id
from shared.wire.requests import MAX_SEQUENCE, check_name, parse_tasks

MAX_SELECTED = 10_000


def check_command(
    command: fleet_pb2.Command, bundle_ids: Collection[str], tasks: Collection[str] | None = None
) -> None:
    """Raise ``SessionError("invalid_message")`` for a command that no device could carry out.

    bundle_ids: of those that this server takes; ``BundleError("not_found")`` for another one.
    tasks: that this server knows, None: any; ``TaskError("unknown_task")`` for another one.
    """
    match command.WhichOneof("command"):
        case "set_rate":
            _check_rate(command.set_rate.policy)
        case "set_tasks":
            for name in parse_tasks(command.set_tasks.tasks):
                if tasks is not None and name not in tasks:
                    known = ", ".join(sorted(tasks)) or "none"
                    raise TaskError(
                        "unknown_task",
                        f"this server has no task {name!r}; it has {known}",
                        task=name,
                    )
        case "set_regions":
            parse_regions(command.set_regions)
        case "use_bundle":
            if command.use_bundle.bundle_id not in bundle_ids:
                raise BundleError(
                    "not_found",
                    f"this server does not take bundle {command.use_bundle.bundle_id[:64]}",
                )
        case "refine_frame":
            refine = command.refine_frame
            if not 1 <= refine.sequence <= MAX_SEQUENCE or refine.state > MAX_STATE:
                raise _invalid("refine_frame", "there is no such frame or state")
            parse_short_id(refine.bundle_short_id)
            if refine.session:
                check_name("session", refine.session)
        case _:
            raise _invalid("command", "there is none, or it is of a newer release")


def check_selector(selector: fleet_pb2.DeviceSelector) -> None:
    """Raise ``SessionError("invalid_message")``."""
    if len(selector.devices) > MAX_SELECTED or len(selector.labels) > MAX_SELECTED:
        raise _invalid("selector", f"names more than {MAX_SELECTED} devices or labels")
    for device in selector.devices:
        check_name("selector.devices", device)


def _check_rate(policy: fleet_pb2.RatePolicy) -> None:
    named = policy.WhichOneof("policy")
    fps = policy.max_frames_per_second
    value = getattr(policy, named) if named is not None else 0
    if (
        not 0 <= fps < math.inf
        or not 0 <= value < 2**53
        or policy.state > MAX_STATE
        or (named not in {None, "state"} and not value)
    ):
        raise _invalid("set_rate", "the policy is out of range")


def _invalid(field: str, complaint: str) -> SessionError:
    return SessionError("invalid_message", f"{field}: {complaint}", field=field)

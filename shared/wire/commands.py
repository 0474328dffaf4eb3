"""A server's commands to a device: checked when they arrive, and the replies to them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from shared.bitstream.layers import MAX_STATE
from shared.errors import BudgetError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2
from shared.targets import Region, Regions, check_regions
from shared.wire.features import parse_short_id
from shared.wire.requests import MAX_SEQUENCE, parse_tasks


@dataclass(frozen=True, slots=True)
class RefineCommand:
    """Asks for layers of a frame up to ``state``; an empty ``bundle_id`` is its first bundle."""

    sequence: int
    bundle_id: bytes
    state: int


@dataclass(frozen=True, slots=True)
class RatePolicy:
    """How a device shall choose its rate; at most one of the first four is set.

    ``max_frames_per_second``: None leaves it to the device.
    """

    state: int | None = None
    bits_per_pixel: float | None = None
    frame_bytes: int | None = None
    bytes_per_second: int | None = None
    max_frames_per_second: float | None = None

    def to_dict(self) -> dict[str, float]:
        """The fields that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def in_words(self) -> str:
        """Such as ``state 5, 2 frames/s``; a dash where the device chooses itself."""
        return ", ".join(rate_part(*part) for part in self.to_dict().items()) or "-"


def rate_part(name: str, value: float) -> str:
    """A part of a policy in words, by its name."""
    return {
        "state": f"state {value}",
        "bits_per_pixel": f"{value:g} bits/pixel",
        "frame_bytes": f"{value} bytes a frame",
        "bytes_per_second": f"{8 * value / 1e3:g} kbit/s",
        "max_frames_per_second": f"{value:g} frames/s",
    }[name]


RATE_FIELDS = tuple(fleet_pb2.RatePolicy.DESCRIPTOR.fields_by_name)
"""The parts of a rate policy that can be changed alone."""


def change_rate(
    policy: fleet_pb2.RatePolicy | None = None, *, clear: Iterable[str] = ()
) -> fleet_pb2.Command:
    """An operator's command that changes what ``policy`` sets, and nothing else of the rate.

    clear: of ``RATE_FIELDS``, those that the device shall choose for itself again.
    """
    policy = policy or fleet_pb2.RatePolicy()
    names = [field.name for field, _ in policy.ListFields()]
    command = fleet_pb2.Command(change_rate=fleet_pb2.ChangeRate(policy=policy))
    command.change_rate.mask.paths.extend(dict.fromkeys([*names, *clear]))
    return command


def changed_rate(
    before: fleet_pb2.RatePolicy, change: fleet_pb2.ChangeRate
) -> fleet_pb2.RatePolicy:
    """``before`` with what the change names, and nothing else, as the change has it.

    change: its mask names some of ``RATE_FIELDS``, and all that its policy sets.
    """
    after = fleet_pb2.RatePolicy()
    after.CopyFrom(before)
    for name in RATE_FIELDS:
        if name in change.mask.paths:
            after.ClearField(name)  # type: ignore[arg-type]  # a literal, to the stubs
    after.MergeFrom(change.policy)
    return after


def parse_rate_policy(message: fleet_pb2.RatePolicy) -> RatePolicy:
    """Check a policy; raises ``SessionError("invalid_message")``."""
    given = message.WhichOneof("policy")
    fps = message.max_frames_per_second
    if (
        not 0 <= fps < math.inf
        or message.state > MAX_STATE
        or not 0 <= message.bits_per_pixel < math.inf
        or max(message.frame_bytes, message.bytes_per_second) >= 2**53
        or (given not in {None, "state"} and not getattr(message, given or ""))
    ):
        raise SessionError("invalid_message", "the rate policy is out of range")
    return RatePolicy(
        message.state if given == "state" else None,
        message.bits_per_pixel or None,
        message.frame_bytes or None,
        message.bytes_per_second or None,
        fps or None,
    )


@dataclass(frozen=True, slots=True)
class TasksCommand:
    """The tasks of frames that name none."""

    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegionsCommand:
    """The regions of every photo that are encoded more finely than the rest; none of them ends
    that."""

    regions: Regions


@dataclass(frozen=True, slots=True)
class BundleCommand:
    """The bundle to use from now on, by its id."""

    bundle_id: str


@dataclass(frozen=True, slots=True)
class KeyFrameCommand:
    """The next frame shall stand alone."""


Setting = RatePolicy | TasksCommand | RegionsCommand | BundleCommand
"""A command about the device itself."""


def parse_regions(message: fleet_pb2.SetRegions) -> Regions:
    """Check regions; raises ``SessionError("invalid_message")``."""
    try:
        return check_regions(
            [
                Region(one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max, one.state)
                for one in message.regions
            ]
        )
    except BudgetError as error:
        raise SessionError("invalid_message", f"set_regions: {error.message}") from None


def parse_command(command: fleet_pb2.Command) -> RefineCommand | KeyFrameCommand | Setting:
    """Check a command.

    Raises ``SessionError``: ``unsupported_command`` for one that this client cannot carry out,
    ``invalid_message``; and ``BitstreamError("bad_bundle_id")``.
    """
    match command.WhichOneof("command"):
        case "set_rate":
            return parse_rate_policy(command.set_rate.policy)
        case "set_tasks":
            return TasksCommand(parse_tasks(command.set_tasks.tasks))
        case "set_regions":
            return RegionsCommand(parse_regions(command.set_regions))
        case "use_bundle":
            bundle_id = command.use_bundle.bundle_id
            if not re.fullmatch("[0-9a-f]{64}", bundle_id):
                raise SessionError("invalid_message", "a bundle's id is 64 hexadecimal digits")
            return BundleCommand(bundle_id)
        case "refine_frame":
            refine = command.refine_frame
            if not 1 <= refine.sequence <= MAX_SEQUENCE or refine.state > MAX_STATE:
                raise SessionError("invalid_message", "there is no such frame or state")
            short_id = parse_short_id(refine.bundle_short_id)
            return RefineCommand(refine.sequence, short_id, refine.state)
        case "key_frame":
            return KeyFrameCommand()
        case other:
            raise SessionError(
                "unsupported_command",
                f"this client knows no command {other}; it may be of a newer release",
            )

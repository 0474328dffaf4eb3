"""featherwire-cloud fleet: devices, and what they shall do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud_server.cli.options import Call, calls, parse_labels, print_json
from cloud_server.cli.rates import ANY, in_words, or_any, rate_command, undone, whole
from shared.cli import bits_per_second, finite, print_table, split_names, stop_on_error, takes
from shared.errors import FeatherwireError

if TYPE_CHECKING:
    from cloud_server.fleet.client import FleetClient
    from shared.proto.featherwire.v1 import fleet_pb2

LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many.")]

_COLUMNS = (
    "device",
    "online",
    "state",
    "rate",
    "frames/s",
    "kB/s",
    "queue",
    "pending",
    "bundle",
    "version",
    "labels",
    "last seen",
)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    fleet = typer.Typer(
        help="Devices of a server. Commands are kept until a device has carried them out.",
        no_args_is_help=True,
    )
    fleet.command("list")(list_devices)
    fleet.command("watch")(watch)
    fleet.command("rate")(rate)
    fleet.command("tasks")(tasks)
    fleet.command("bundle")(bundle)
    fleet.command("roi")(roi)
    fleet.command("refine")(refine)
    fleet.command("commands")(commands)
    fleet.command("audit")(audit)
    app.add_typer(fleet, name="fleet")


@dataclass(frozen=True)
class Asking(Call):
    """A call about some devices, or all. Each field is an option."""

    device: Annotated[
        list[str] | None, typer.Option("--device", help="This device; may be repeated.")
    ] = None
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", metavar="NAME=VALUE", help="Devices with this label; may be repeated."
        ),
    ] = None

    def selector(self) -> fleet_pb2.DeviceSelector:
        """The devices that are meant. Raises ``bad_option``."""
        from shared.proto.featherwire.v1 import fleet_pb2

        return fleet_pb2.DeviceSelector(devices=self.device, labels=parse_labels(self.label))


@dataclass(frozen=True)
class Commanding(Asking):
    """A command to some devices; to all only with ``--all``. Each field is an option."""

    all_devices: Annotated[bool, typer.Option("--all", help="Every device.")] = False

    def selector(self) -> fleet_pb2.DeviceSelector:
        """The devices that are meant. Raises ``bad_option``."""
        if self.all_devices == bool(self.device or self.label):
            raise FeatherwireError("bad_option", "give --device or --label, or --all alone")
        return super().selector()

    def send(self, command: fleet_pb2.Command) -> None:
        """Send a command to the devices. Raises FeatherwireError."""
        _send(self, self.selector(), command)


@takes(Asking)
def list_devices(call: Asking) -> None:
    """List all devices that ever connected."""
    with stop_on_error(as_json=call.as_json), _client(call) as client:
        devices = client.devices(call.selector())
        if call.as_json:
            for one in devices:
                print_json(_device_document(one))
        else:
            print_table(_COLUMNS, map(_device_row, devices), unbroken={"device", "online"})


@takes(Asking)
def watch(
    call: Asking,
    limit: LimitOption = None,
) -> None:
    """Print devices as they are, then as they change, until Ctrl-C."""
    with stop_on_error(as_json=call.as_json), _client(call) as client:
        for number, one in enumerate(client.watch(call.selector()), start=1):
            if call.as_json:
                print_json(_device_document(one))
            else:
                print("  ".join(_device_row(one)), flush=True)
            if number == limit:
                return


@takes(Commanding)
def rate(
    call: Commanding,
    state: Annotated[
        Any,
        typer.Option(
            "--state",
            metavar="STATE|any",
            parser=or_any(whole("a state", 0, 255)),
            help="Always this state.",
        ),
    ] = None,
    bpp: Annotated[
        Any,
        typer.Option(
            "--bpp",
            metavar="BITS|any",
            parser=or_any(finite("bits a pixel", minimum=1e-6)),
            help="Bits a pixel, at most.",
        ),
    ] = None,
    max_bytes: Annotated[
        Any,
        typer.Option(
            "--bytes",
            metavar="BYTES|any",
            parser=or_any(whole("bytes a frame", 1, 2**50)),
            help="Bytes a frame, at most.",
        ),
    ] = None,
    bandwidth: Annotated[
        Any,
        typer.Option(
            "--bandwidth",
            metavar="BITS_PER_SECOND|any",
            parser=or_any(bits_per_second),
            help="Bits a second, such as 64k or 1.5M; the device picks state and frame rate.",
        ),
    ] = None,
    fps: Annotated[
        Any,
        typer.Option(
            "--fps",
            metavar="FRAMES|any",
            parser=or_any(finite("frames a second", minimum=0.001)),
            help="Frames a second, at most.",
        ),
    ] = None,
    reset: Annotated[
        bool,
        typer.Option("--reset", help="Take the rate back: the device chooses for itself again."),
    ] = False,
) -> None:
    """Change how devices choose the rate of their frames; what is not named stays as it is.

    --state, --bpp, --bytes and --bandwidth take each other's place; `any` leaves that part to the
    device again. What was set before, and is replaced, is said on stderr with who had set it.
    """
    with stop_on_error(as_json=call.as_json):
        selector = call.selector()
        if bandwidth not in (None, ANY):
            bandwidth = max(1, int(bandwidth / 8))
        parts = {
            "state": state,
            "bits_per_pixel": bpp,
            "frame_bytes": max_bytes,
            "bytes_per_second": bandwidth,
            "max_frames_per_second": fps,
        }
        command = rate_command(parts, reset=reset)
        with _client(call) as client:
            for text in undone(client, selector, command):
                typer.echo(text, err=True)
        _send(call, selector, command)


@takes(Commanding)
def tasks(
    call: Commanding,
    names: Annotated[str, typer.Argument(metavar="NAME,NAME", help="Names of tasks, or `none`.")],
) -> None:
    """Set which tasks devices ask for."""
    from shared.proto.featherwire.v1 import fleet_pb2

    with stop_on_error(as_json=call.as_json):
        command = fleet_pb2.Command(set_tasks=fleet_pb2.SetTasks(tasks=split_names(names)))
        call.send(command)


@takes(Commanding)
def bundle(
    call: Commanding,
    name: Annotated[str, typer.Argument(metavar="BUNDLE", help="Id, folder, zip or name.")],
) -> None:
    """Set which bundle devices use, of those that the server takes."""
    from shared.bundle import Bundle
    from shared.proto.featherwire.v1 import fleet_pb2

    with stop_on_error(as_json=call.as_json):
        is_id = len(name) == 64 and set(name) <= set("0123456789abcdef")
        bundle_id = name if is_id else Bundle.load(name).id
        command = fleet_pb2.Command(use_bundle=fleet_pb2.UseBundle(bundle_id=bundle_id))
        call.send(command)


@takes(Commanding)
def roi(
    call: Commanding,
    regions: Annotated[
        list[str] | None,
        typer.Argument(metavar="X,Y,W,H[:STATE]", help="Shares of the sides, as in 0.5,0,0.5,1."),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Take all regions back.")] = False,
) -> None:
    """Set which parts of their photos devices code more finely than the rest.

    The rest has the state that the device's rate gives it; a region has STATE (default: 0, the
    finest) where that is finer.
    """
    from shared.proto.featherwire.v1 import fleet_pb2, types_pb2
    from shared.targets import parse_region

    with stop_on_error(as_json=call.as_json):
        if none == bool(regions):
            raise FeatherwireError("bad_option", "give regions, or --none alone")
        wanted = fleet_pb2.SetRegions()
        for region in map(parse_region, regions or ()):
            box = types_pb2.Box(
                x_min=region.x_min, y_min=region.y_min, x_max=region.x_max, y_max=region.y_max
            )
            wanted.regions.add(box=box, state=region.state)
        command = fleet_pb2.Command(set_regions=wanted)
        call.send(command)


@calls
def refine(
    call: Call,
    device: Annotated[
        str, typer.Argument(metavar="DEVICE", help="The device that sent the frame.")
    ],
    sequence: Annotated[
        int, typer.Argument(metavar="SEQUENCE", min=1, max=2**62, help="The frame's sequence.")
    ],
    state: Annotated[
        int, typer.Option("--state", min=0, max=255, help="Up to this state. Default: 0.")
    ] = 0,
    session: Annotated[
        str, typer.Option("--session", help="The frame's session. Default: the device's newest.")
    ] = "",
    of_bundle: Annotated[
        str | None,
        typer.Option(
            "--bundle", help="The bundle whose features are meant. Default: the frame's first."
        ),
    ] = None,
) -> None:
    """Ask a device for more layers of a frame, as far as it has kept them."""
    from shared.bundle import Bundle
    from shared.proto.featherwire.v1 import fleet_pb2

    with stop_on_error(as_json=call.as_json):
        short_id = b"" if of_bundle is None else Bundle.load(of_bundle).short_id
        command = fleet_pb2.Command(
            refine_frame=fleet_pb2.RefineFrame(
                sequence=sequence, state=state, session=session, bundle_short_id=short_id
            )
        )
        _send(call, fleet_pb2.DeviceSelector(devices=[device]), command)


@takes(Asking)
def commands(
    call: Asking,
    pending: Annotated[
        bool, typer.Option("--pending", help="Only commands that have no answer yet.")
    ] = False,
) -> None:
    """List commands, oldest first, and what became of them."""
    with stop_on_error(as_json=call.as_json), _client(call) as client:
        found = client.commands(call.selector(), pending_only=pending)
        documents = map(_command_document, found)
        columns = ("id", "device", "issued", "by", "command", "outcome")
        _print(documents, columns, call.as_json)


@calls
def audit(
    call: Call,
    after: Annotated[
        int, typer.Option("--after", min=0, max=2**62, help="Only entries after this one.")
    ] = 0,
) -> None:
    """List who did what, oldest first."""
    with stop_on_error(as_json=call.as_json), _client(call) as client:
        documents = (
            {
                "id": entry.id,
                "at": entry.at.ToJsonString(),
                "who": entry.who,
                "action": entry.action,
                "what": json.loads(entry.what),
            }
            for entry in client.audit(after)
        )
        _print(documents, ("id", "at", "who", "action", "what"), call.as_json)


# -- parts ---------------------------------------------------------------------------------------


def _client(call: Call) -> FleetClient:
    way = call.access()
    from cloud_server.fleet.client import FleetClient

    return FleetClient(call.server, way)


def _send(call: Call, selector: fleet_pb2.DeviceSelector, command: fleet_pb2.Command) -> None:
    with _client(call) as client:
        sent = client.send(selector, command)
    if not sent:
        raise FeatherwireError("no_device", "no device has these labels; nobody was told anything")
    documents = ({"device": device, "id": sent[device]} for device in sorted(sent))
    _print(documents, ("device", "id"), call.as_json)


def _print(documents: Iterable[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        for document in documents:
            print_json(document)
        return
    rows = [[_cell(document[column]) for column in columns] for document in documents]
    print_table(columns, rows, unbroken={"id"})


def _cell(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _device_document(device: fleet_pb2.Device) -> dict[str, Any]:
    """All of a device that operators see, JSON-ready."""
    from google.protobuf.json_format import MessageToDict

    policy = MessageToDict(device.rate_policy, preserving_proto_field_name=True)
    return {
        "device": device.device,
        "session": device.session,
        "online": device.online,
        "last_seen_at": device.last_seen_at.ToJsonString(),
        "bundle_id": device.bundle_id,
        "client_version": device.client_version,
        "state": device.state if device.HasField("state") else None,
        "frames_per_second": device.frames_per_second,
        "bytes_per_second": device.bytes_per_second,
        "throttled": device.throttled,
        "queued_frames": device.queued_frames,
        "queued_bytes": device.queued_bytes,
        "pending_commands": device.pending_commands,
        "rate_policy": policy,
        "tasks": list(device.tasks),
        "regions": [
            MessageToDict(region, preserving_proto_field_name=True) for region in device.regions
        ],
        "labels": dict(device.labels),
    }


def _device_row(device: fleet_pb2.Device) -> tuple[str, ...]:
    """A device in a line."""
    return (
        device.device,
        "throttled" if device.throttled else "online" if device.online else "-",
        str(device.state) if device.HasField("state") else "-",
        in_words(device.rate_policy),
        f"{device.frames_per_second:.2f}",
        f"{device.bytes_per_second / 1e3:.1f}",
        str(device.queued_frames),
        str(device.pending_commands),
        device.bundle_id[:16],
        device.client_version,
        ", ".join(f"{name}={value}" for name, value in sorted(device.labels.items())),
        device.last_seen_at.ToJsonString(),
    )


def _command_document(issued: fleet_pb2.IssuedCommand) -> dict[str, Any]:
    """A command, whom it is for, and what became of it."""
    from google.protobuf.json_format import MessageToDict

    kind = issued.command.WhichOneof("command") or "unknown"
    content = MessageToDict(getattr(issued.command, kind), preserving_proto_field_name=True)
    outcome, message = "pending", None
    if issued.HasField("reply"):
        failed = issued.reply.HasField("error")
        outcome = issued.reply.error.reason if failed else "done"
        message = issued.reply.error.message if failed else None
    return {
        "id": issued.command.command_id,
        "device": issued.device,
        "issued": issued.command.issued_at.ToJsonString(),
        "by": issued.issued_by,
        "command": {kind: content},
        "outcome": outcome,
        "message": message,
        "replied": issued.replied_at.ToJsonString() if issued.HasField("replied_at") else None,
    }

"""featherwire-cloud fleet: devices, and what they shall do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud_server.cli.options import Call, calls, parse_labels
from cloud_server.cli.rates import ANY, rate_command, undone
from shared.cli import (
    JsonLinesOption,
    bits_per_second,
    finite,
    print_line,
    print_list,
    print_table,
    split_names,
    stop_on_error,
    takes,
    whole,
)
from shared.errors import FeatherwireError

if TYPE_CHECKING:
    from cloud_server.fleet.client import FleetClient
    from shared.proto.featherwire.v1 import fleet_pb2

AT_ONCE = 1000
"""So many commands are cancelled with one call."""

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
    fleet.command("key-frame")(key_frame)
    fleet.command("refine")(refine)
    fleet.command("commands")(commands)
    fleet.command("cancel")(cancel)
    fleet.command("forget")(forget)
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
class Watching(Asking):
    """A call about some devices that goes on. Each field is an option."""

    as_json: JsonLinesOption = False


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
    from cloud_server.fleet.documents import device_document

    with stop_on_error(as_json=call.as_json), _client(call) as client:
        devices = client.devices(call.selector())
        if call.as_json:
            print_list("devices", map(device_document, devices))
        else:
            print_table(_COLUMNS, map(_device_row, devices), unbroken={"device", "online"})


@takes(Watching)
def watch(
    call: Watching,
    limit: LimitOption = None,
) -> None:
    """Print devices as they are, then as they change, until Ctrl-C."""
    from cloud_server.fleet.documents import device_document

    with stop_on_error(as_json=call.as_json), _client(call) as client:
        for number, one in enumerate(client.watch(call.selector()), start=1):
            if call.as_json:
                print_line(device_document(one))
            else:
                print("  ".join(_device_row(one)), flush=True)
            if number == limit:
                return


def _or_any(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """The parser, for an option that takes ``any`` as well."""
    return lambda text: ANY if text == ANY else parse(text)


@takes(Commanding)
def rate(
    call: Commanding,
    state: Annotated[
        Any,
        typer.Option(
            "--state",
            metavar="STATE|any",
            parser=_or_any(whole("a state", 0, 255)),
            help="Always this state.",
        ),
    ] = None,
    bpp: Annotated[
        Any,
        typer.Option(
            "--bpp",
            metavar="BITS|any",
            parser=_or_any(finite("bits a pixel", minimum=1e-6)),
            help="Bits a pixel, at most.",
        ),
    ] = None,
    max_bytes: Annotated[
        Any,
        typer.Option(
            "--bytes",
            metavar="BYTES|any",
            parser=_or_any(whole("bytes a frame", 1, 2**50)),
            help="Bytes a frame, at most.",
        ),
    ] = None,
    bandwidth: Annotated[
        Any,
        typer.Option(
            "--bandwidth",
            metavar="BITS_PER_SECOND|any",
            parser=_or_any(bits_per_second),
            help="Bits a second, such as 64k or 1.5M; the device picks state and frame rate.",
        ),
    ] = None,
    fps: Annotated[
        Any,
        typer.Option(
            "--fps",
            metavar="FRAMES|any",
            parser=_or_any(finite("frames a second", minimum=0.001)),
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


@takes(Commanding)
def key_frame(call: Commanding) -> None:
    """Have devices code their next frame by itself, and those after it from there on."""
    from shared.proto.featherwire.v1 import fleet_pb2

    with stop_on_error(as_json=call.as_json):
        call.send(fleet_pb2.Command(key_frame=fleet_pb2.KeyFrame()))


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
    from cloud_server.fleet.documents import command_document

    with stop_on_error(as_json=call.as_json), _client(call) as client:
        found = client.commands(call.selector(), pending_only=pending)
        if call.as_json:
            print_list("commands", map(command_document, found))
        else:
            _print_commands(client, found)


@takes(Commanding)
def cancel(
    call: Commanding,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="As `fleet commands --pending` shows it."),
    ] = None,
) -> None:
    """Take commands back that have no answer yet: by their ids, or all those to some devices.

    A device that was given one already may carry it out all the same, and then says so.
    """
    with stop_on_error(as_json=call.as_json), _client(call) as client:
        if ids and (call.all_devices or call.device or call.label):
            raise FeatherwireError("bad_option", "give ids, or --device, --label or --all alone")
        wanted = list(ids or ())
        if not wanted:
            pending = client.commands(call.selector(), pending_only=True)
            wanted = [one.command.command_id for one in pending]
        cancelled: set[str] = set()
        for at in range(0, len(wanted), AT_ONCE):
            cancelled |= set(client.cancel(wanted[at : at + AT_ONCE]))
        documents = [{"id": one, "cancelled": one in cancelled} for one in wanted]
    if call.as_json:
        print_list("commands", documents)
    elif not wanted:
        print("no command is pending")
    else:
        rows = [(one, "cancelled" if one in cancelled else "has its answer") for one in wanted]
        print_table(("id", "outcome"), rows, unbroken={"id"})


@calls
def forget(
    call: Call,
    devices: Annotated[list[str], typer.Argument(metavar="DEVICE", help="Devices that are away.")],
) -> None:
    """Take devices out of the list, and cancel what waits for them. Their results stay, and their
    tokens stay good: a device that connects again is there again."""
    with stop_on_error(as_json=call.as_json), _client(call) as client:

        def one(device: str) -> dict[str, Any]:
            client.forget(device)
            return {"device": device, "forgotten": True}

        if call.as_json:
            print_list("devices", map(one, devices))
            return
        for device in devices:
            print(f"{one(device)['device']} is forgotten")


@calls
def audit(
    call: Call,
    after: Annotated[
        int, typer.Option("--after", min=0, max=2**62, help="Only entries after this one.")
    ] = 0,
) -> None:
    """List who did what, oldest first."""
    from cloud_server.fleet.words import action_in_words, audit_in_words

    with stop_on_error(as_json=call.as_json), _client(call) as client:
        names = {} if call.as_json else client.bundle_names()
        documents = (
            {
                "id": entry.id,
                "at": entry.at.ToJsonString(),
                "who": entry.who,
                "action": entry.action if call.as_json else action_in_words(entry),
                "what": json.loads(entry.what) if call.as_json else audit_in_words(entry, names),
            }
            for entry in client.audit(after)
        )
        _print("entries", documents, ("id", "at", "who", "action", "what"), call.as_json)


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
    _print("sent", documents, ("device", "id"), call.as_json)


def _print_commands(client: FleetClient, found: Iterable[fleet_pb2.IssuedCommand]) -> None:
    from cloud_server.fleet.documents import command_document
    from cloud_server.fleet.words import command_in_words

    names = client.bundle_names()
    rows = [
        (
            one.command.command_id,
            one.device,
            one.command.issued_at.ToJsonString(),
            one.issued_by,
            command_in_words(one.command, names),
            str(command_document(one)["outcome"]),
        )
        for one in found
    ]
    columns = ("id", "device", "issued", "by", "command", "outcome")
    print_table(columns, rows, unbroken={"id"})


def _print(
    name: str, documents: Iterable[dict[str, Any]], columns: tuple[str, ...], as_json: bool
) -> None:
    if as_json:
        print_list(name, documents)
        return
    rows = [[str(document[column]) for column in columns] for document in documents]
    print_table(columns, rows, unbroken={"id"})


def _device_row(device: fleet_pb2.Device) -> tuple[str, ...]:
    """A device in a line."""
    from cloud_server.fleet.words import policy_in_words, state_in_words

    return (
        device.device,
        "throttled" if device.throttled else "online" if device.online else "-",
        state_in_words(device) or "-",
        policy_in_words(device.rate_policy) or "-",
        f"{device.frames_per_second:.2f}",
        f"{device.bytes_per_second / 1e3:.1f}",
        str(device.queued_frames),
        str(device.pending_commands),
        device.bundle_name or device.bundle_id[:16],
        device.client_version,
        ", ".join(f"{name}={value}" for name, value in sorted(device.labels.items())),
        device.last_seen_at.ToJsonString(),
    )

"""Commands and the audit as tables, and the commands that the console gives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cloud_server.console.view import formats
from cloud_server.console.view.fleet import policy
from cloud_server.console.view.formats import Tone, cell, column, row
from shared.proto.featherwire.v1 import fleet_pb2, types_pb2
from shared.wire.commands import change_rate

COLUMNS = [
    column("Command"),
    column("Device"),
    column("What"),
    column("Answer", wide=True),
    column("Given"),
    column("By"),
]
OF_DEVICE = [COLUMNS[0], COLUMNS[2], COLUMNS[3], COLUMNS[4]]
AUDIT_COLUMNS = [
    column("No.", number=True),
    column("When"),
    column("Who"),
    column("Action"),
    column("What", wide=True),
]


def rows(commands: Iterable[fleet_pb2.IssuedCommand], names: Mapping[str, str]) -> list[Any]:
    """names: of bundles, by id."""
    return [
        row(
            one.command.command_id,
            [
                cell(one.command.command_id, tone="muted"),
                cell(one.device, href=f"/device/{quote(one.device)}"),
                cell(what(one.command, names)),
                answer(one),
                cell(formats.instant(one.command.issued_at)),
                cell(one.issued_by, tone="muted"),
            ],
        )
        for one in commands
    ]


def rows_of_device(
    commands: Iterable[fleet_pb2.IssuedCommand], names: Mapping[str, str]
) -> list[Any]:
    """The same, without the columns that the device's page has already."""
    found = []
    for one in rows(commands, names):
        cells = one["cells"]
        found.append({**one, "cells": [cells[0], cells[2], cells[3], cells[4]]})
    return found


def answer(one: fleet_pb2.IssuedCommand) -> dict[str, Any]:
    """What has become of a command, as a cell."""
    text, tone = "pending", "warn"
    if one.HasField("reply"):
        error = one.reply.error
        failed = one.reply.HasField("error")
        text = "applied" if not failed else f"{error.reason}: {error.message}"
        if failed and error.reason == "superseded":
            text, tone = "superseded by a later one", "muted"
        else:
            tone = "bad" if failed else "good"
    return cell(text, tone=_tone(tone))


def what(command: fleet_pb2.Command, names: Mapping[str, str]) -> str:
    """A command in a few words."""
    match command.WhichOneof("command"):
        case "set_rate":
            return f"rate: {policy(command.set_rate.policy) or 'its own'}"
        case "change_rate":
            return f"rate: {policy(command.change_rate.policy) or 'its own'}"
        case "set_tasks":
            return f"tasks: {', '.join(command.set_tasks.tasks) or 'none'}"
        case "set_regions":
            count = len(command.set_regions.regions)
            return f"regions: {count}" if count else "regions: none"
        case "use_bundle":
            wanted = command.use_bundle.bundle_id
            return f"bundle: {names.get(wanted, wanted[:8])}"
        case "refine_frame":
            refine = command.refine_frame
            return f"refine frame {refine.sequence} to state {refine.state}"
    return "something of a newer release"


def audit_rows(entries: Iterable[fleet_pb2.AuditEntry]) -> list[Any]:
    """Entries of the audit."""
    return [
        row(
            str(one.id),
            [
                cell(str(one.id), tone="muted"),
                cell(formats.instant(one.at)),
                cell(one.who),
                cell(one.action),
                cell(_short(one.what), title=one.what[:1000]),
            ],
        )
        for one in entries
    ]


def set_state(state: int) -> fleet_pb2.Command:
    """Always this state; a limit of the frames a second stays."""
    return change_rate(fleet_pb2.RatePolicy(state=state))


def own_rate() -> fleet_pb2.Command:
    """As the device itself chooses, in everything."""
    return fleet_pb2.Command(set_rate=fleet_pb2.SetRate(policy=fleet_pb2.RatePolicy()))


def set_tasks(tasks: Sequence[str]) -> fleet_pb2.Command:
    """These tasks."""
    return fleet_pb2.Command(set_tasks=fleet_pb2.SetTasks(tasks=tasks))


def use_bundle(bundle_id: str) -> fleet_pb2.Command:
    """That bundle."""
    return fleet_pb2.Command(use_bundle=fleet_pb2.UseBundle(bundle_id=bundle_id))


def refine(sequence: int, session: str, state: int, bundle: bytes) -> fleet_pb2.Command:
    """More of one frame."""
    return fleet_pb2.Command(
        refine_frame=fleet_pb2.RefineFrame(
            sequence=sequence, session=session, state=state, bundle_short_id=bundle
        )
    )


def set_regions(corners: Sequence[float] | None, state: int) -> fleet_pb2.Command:
    """One region (x_min, y_min, x_max, y_max in 0..1) at its own state; None takes all back."""
    command = fleet_pb2.Command(set_regions=fleet_pb2.SetRegions())
    if corners is not None:
        x_min, y_min, x_max, y_max = corners
        box = types_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
        command.set_regions.regions.add(box=box, state=state)
    return command


def _short(text: str) -> str:
    """JSON without its quotes and braces: it is read by people here."""
    try:
        found = json.loads(text)
    except ValueError:
        return text[:200]
    return _words(found)[:200]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        inner = (f"{name} {_words(one)}" for name, one in value.items() if one not in ({}, [], ""))
        return ", ".join(inner)
    if isinstance(value, list):
        return " ".join(_words(one) for one in value)
    return str(value)


def _tone(name: str) -> Tone:
    tones: dict[str, Tone] = {"good": "good", "warn": "warn", "bad": "bad", "muted": "muted"}
    return tones[name]

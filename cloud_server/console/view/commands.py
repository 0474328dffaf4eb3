"""Commands and the audit as tables, and the commands that the console gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cloud_server.console.view import formats
from cloud_server.console.view.formats import Tone, cell, column, row
from cloud_server.fleet.commands import CANCELLED
from cloud_server.fleet.words import action_in_words, audit_in_words, command_in_words
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
        elif failed and error.reason == CANCELLED:
            text, tone = f"cancelled: {error.message}", "muted"
        else:
            tone = "bad" if failed else "good"
    return cell(text, tone=_tone(tone), act="" if one.HasField("reply") else "Cancel")


def what(command: fleet_pb2.Command, names: Mapping[str, str]) -> str:
    """A command in a few words. names: of bundles, by id."""
    return command_in_words(command, names)


def tally(found: Sequence[fleet_pb2.IssuedCommand], count: int) -> tuple[str, Tone, bool]:
    """What has become of one command to several devices, in words; and whether that is all.

    count: of the devices; fewer are found where later commands have pushed some out of the list.
    """
    pending = [one for one in found if not one.HasField("reply")]
    failed = [one for one in found if one.HasField("reply") and one.reply.HasField("error")]
    done = len(found) - len(pending) - len(failed)
    parts = [f"applied by {done} of {count}"]
    if pending:
        parts.append(f"pending on {len(pending)}")
    if failed:
        reasons = Counter(one.reply.error.reason for one in failed)
        parts.append(", ".join(f"{times} {reason}" for reason, times in reasons.items()))
    tone: Tone = "warn" if pending else "bad" if failed else "good"
    return ", ".join(parts), tone, not pending


def audit_rows(
    entries: Iterable[fleet_pb2.AuditEntry], names: Mapping[str, str] | None = None
) -> list[Any]:
    """Entries of the audit. names: of bundles, by id."""
    return [
        row(
            str(one.id),
            [
                cell(str(one.id), tone="muted"),
                cell(formats.instant(one.at)),
                cell(one.who),
                cell(
                    action_in_words(one),
                    tone="warn" if one.action == "Refused" else "",
                ),
                cell(audit_in_words(one, names or {})[:300], title=one.what[:1000]),
            ],
        )
        for one in entries
    ]


def set_state(state: int) -> fleet_pb2.Command:
    """Always this state; a limit of the frames a second stays."""
    return change_rate(fleet_pb2.RatePolicy(state=state))


def set_frame_rate(frames_per_second: float | None) -> fleet_pb2.Command:
    """So many frames a second at most, None: as the device likes; the rest of its rate stays."""
    if frames_per_second is None:
        return change_rate(clear=["max_frames_per_second"])
    return change_rate(fleet_pb2.RatePolicy(max_frames_per_second=frames_per_second))


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


def key_frame() -> fleet_pb2.Command:
    """A frame that stands alone, and those after it from there on."""
    return fleet_pb2.Command(key_frame=fleet_pb2.KeyFrame())


def set_regions(corners: Sequence[float] | None, state: int) -> fleet_pb2.Command:
    """One region (x_min, y_min, x_max, y_max in 0..1) at its own state; None takes all back."""
    command = fleet_pb2.Command(set_regions=fleet_pb2.SetRegions())
    if corners is not None:
        x_min, y_min, x_max, y_max = corners
        box = types_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
        command.set_regions.regions.add(box=box, state=state)
    return command


def _tone(name: str) -> Tone:
    tones: dict[str, Tone] = {"good": "good", "warn": "warn", "bad": "bad", "muted": "muted"}
    return tones[name]

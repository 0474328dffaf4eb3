"""Commands to devices and their answers, and who did what."""

from __future__ import annotations

from cloud_server.console.pages.parts import Frame, Table, Tag, checkbox, complaint
from cloud_server.console.view import commands
from shared.errors import FeatherwireError

NEWEST = 100


def build(frame: Frame) -> None:
    """The page ``/commands``."""
    pending_only = False

    def choose(value: bool) -> None:
        nonlocal pending_only
        pending_only = value

    with Tag("div", classes="head"):
        Tag("h1", "Commands")
        count = Tag("span", "", "muted")
        status = Tag("span", "", "muted", role="status")
        if frame.user.commands:
            checkbox("Only those without an answer", choose)
    if not frame.user.commands:
        with Tag("div", classes="panel"):
            Tag("p", "This token reads results. Commands and the audit are an operator's.")
        return
    with Tag("div", classes="panel flush"):
        table = Table(
            "Commands",
            commands.COLUMNS,
            "No command was given yet.",
            on_act=lambda key: cancel(key),
        )
    Tag("h2", "Audit")
    with Tag("div", classes="panel flush scroll", tabindex="0"):
        audit = Table("Audit", commands.AUDIT_COLUMNS, "Nothing was done yet.")

    async def cancel(command_id: str) -> None:
        try:
            cancelled = await frame.connection.fleet.cancel([command_id])
        except FeatherwireError as error:
            status.say(complaint(error), "bad")
            return
        status.say(f"{command_id} {'is cancelled' if cancelled else 'has its answer already'}")
        await look()

    async def look() -> None:
        try:
            found = await frame.connection.fleet.commands(count=NEWEST, pending_only=pending_only)
            entries = await frame.connection.fleet.audit(count=NEWEST)
        except FeatherwireError as error:
            count.say(complaint(error), "bad")
            return
        names = await frame.bundle_names()
        count.say(f"the newest {NEWEST}" if len(found) == NEWEST else "")
        table.show(rows=commands.rows(found, names))
        audit.show(rows=commands.audit_rows(entries, names))

    frame.every(2.0, look)

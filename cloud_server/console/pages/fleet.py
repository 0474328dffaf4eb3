"""All devices, as they are now."""

from __future__ import annotations

from cloud_server.console.pages.parts import LOOK_EVERY_S, Frame, Input, Table, Tag, figure
from cloud_server.console.view import fleet

LEAST_EVERY = 10
"""Looks after which the table is made anew although nothing has come: times go by."""

EMPTY = """No device has been here yet. To connect one:

featherwire-edge send photos/*.jpg --server {server} --device cam-1"""


def build(frame: Frame) -> None:
    """The page ``/``."""
    feed = frame.connection.devices
    wanted = ""
    seen = (-1, "")
    looks = 0

    def search(text: str) -> None:
        nonlocal wanted
        wanted = text

    with Tag("div", classes="head"):
        Tag("h1", "Fleet")
        count = Tag("span", "", "muted")
        Input(
            "search",
            on_moved=search,
            placeholder="Name, or label: site=north",
            aria_label="Filter by name or label",
        ).classes("search")
    with Tag("div", classes="figures"):
        figures = {name: figure(name) for name in fleet.summary([])}
    with Tag("div", classes="panel flush"):
        table = Table("Devices", fleet.COLUMNS, "Waiting for the server.")

    async def look() -> None:
        nonlocal seen, looks
        looks += 1
        if seen == (feed.version, wanted) and looks % LEAST_EVERY:
            return
        seen = (feed.version, wanted)
        devices = list(feed.devices.values())
        names = await frame.bundle_names()
        rows = fleet.rows(devices, wanted, names)
        fitting = sum(fleet.matches(one, wanted) for one in devices)
        more = f"; the first {len(rows)} are shown" if fitting > len(rows) else ""
        count.say(f"{fitting} of {len(devices)} devices{more}" if devices else "")
        for name, text in fleet.summary(devices).items():
            figures[name].say(text)
        empty = EMPTY.format(server=frame.console.settings.server)
        if devices:
            empty = "No device fits this filter."
        elif not feed.begun:
            empty = "Waiting for the server."
        table.show(rows=rows, empty=empty)

    frame.every(LOOK_EVERY_S, look)

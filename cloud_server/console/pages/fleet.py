"""All devices, as they are now; and commands to several of them."""

from __future__ import annotations

from collections.abc import Callable

from cloud_server.console.pages.forms import BundleForm, FrameRateForm, StateForm, TaskForm
from cloud_server.console.pages.parts import (
    LOOK_EVERY_S,
    Frame,
    Input,
    Table,
    Tag,
    button,
    complaint,
    figure,
    notice,
    select,
    set_options,
)
from cloud_server.console.view import commands, fleet
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import fleet_pb2

LEAST_EVERY = 10
"""Looks after which the table is made anew although nothing has come: times go by."""

EMPTY = """No device has been here yet. To connect one:

featherwire-edge send photos/*.jpg --server {server} --device cam-1"""


def build(frame: Frame) -> None:
    """The page ``/``."""
    FleetPage(frame)


class FleetPage:
    """The table, and whom of it commands go to."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._feed = frame.connection.devices
        self._wanted = ""
        self._ticked: set[str] = set()
        self._seen: tuple[int, str, frozenset[str]] | None = None
        self._looks = 0
        with Tag("div", classes="head"):
            Tag("h1", "Fleet")
            self._count = Tag("span", "", "muted")
            Input(
                "search",
                on_moved=self._search,
                placeholder="Name, or label: site=north",
                aria_label="Filter by name or label",
            ).classes("search")
        with Tag("div", classes="figures"):
            self._figures = {name: figure(name) for name in fleet.summary([])}
        with Tag("div", classes="panel flush"):
            self._table = Table(
                "Devices", fleet.COLUMNS, "Waiting for the server.", on_tick=self._tick
            )
        self._orders: Orders | None = None
        if frame.user.commands:
            self._orders = Orders(frame, self._ticked, self._tick_all)
        frame.every(LOOK_EVERY_S, self._look)

    def _search(self, text: str) -> None:
        self._wanted = text

    def _tick(self, device: str, ticked: bool) -> None:
        if ticked:
            self._ticked.add(device)
        else:
            self._ticked.discard(device)

    def _tick_all(self) -> None:
        """Those that the filter shows; or none, when they all are."""
        fitting = {
            one.device for one in self._feed.devices.values() if fleet.matches(one, self._wanted)
        }
        if fitting <= self._ticked:
            self._ticked.clear()
        else:
            self._ticked.update(fitting)

    async def _look(self) -> None:
        self._looks += 1
        self._ticked.intersection_update(self._feed.devices)
        seen = (self._feed.version, self._wanted, frozenset(self._ticked))
        if self._orders is not None:
            await self._orders.look()
        if seen == self._seen and self._looks % LEAST_EVERY:
            return
        self._seen = seen
        devices = list(self._feed.devices.values())
        names = await self._frame.bundle_names()
        ticked = self._ticked if self._frame.user.commands else None
        rows = fleet.rows(devices, self._wanted, names, ticked=ticked)
        fitting = sum(fleet.matches(one, self._wanted) for one in devices)
        more = f"; the first {len(rows)} are shown" if fitting > len(rows) else ""
        self._count.say(f"{fitting} of {len(devices)} devices{more}" if devices else "")
        for name, text in fleet.summary(devices).items():
            self._figures[name].say(text)
        empty = EMPTY.format(server=self._frame.console.settings.server)
        if devices:
            empty = "No device fits this filter."
        elif not self._feed.begun:
            empty = "Waiting for the server."
        self._table.show(rows=rows, empty=empty)
        if self._orders is not None:
            self._orders.describe(devices, names)


class Orders:
    """Commands to the devices that are ticked, to those with a label, or to all."""

    def __init__(self, frame: Frame, ticked: set[str], tick_all: Callable[[], None]) -> None:
        """tick_all: ticks every device that fits the filter, or none."""
        self._frame = frame
        self._ticked = ticked
        self._target = "ticked"
        self._offered: list[tuple[str, str]] = []
        self._names: dict[str, str] = {}
        self._given: dict[str, str] = {}
        self._what = ""
        self._looks = 0
        with Tag("section", classes="panel", aria_label="Commands to several devices"):
            Tag("h2", "Commands to several devices")
            with Tag("div", classes="row"):
                self._targets = select("To", [], self._choose)
                button("Tick all that are shown, or none", tick_all)
            with Tag("div", classes="orders"):
                with Tag("div"):
                    Tag("h3", "Rate")
                    StateForm(self._send)
                    FrameRateForm(self._send)
                with Tag("div"):
                    Tag("h3", "Tasks")
                    TaskForm(self._send)
                with Tag("div"):
                    Tag("h3", "Bundle")
                    self._bundle = BundleForm(self._send)
            self._answer = notice()

    def describe(self, devices: list[fleet_pb2.Device], names: dict[str, str]) -> None:
        """The fleet as it is now. names: of bundles, by id."""
        self._names = names
        self._bundle.describe(names)
        offered = fleet.targets(devices, self._ticked)
        if offered != self._offered:
            self._offered = offered
            if self._target not in dict(offered):
                self._target = "ticked"
            set_options(self._targets, offered, self._target)

    async def look(self) -> None:
        """See what has become of the last command, every second or so."""
        self._looks += 1
        if not self._given or self._looks % 2:
            return
        given = self._given
        try:
            found = await self._frame.connection.fleet.commands(count=min(1000, 50 + len(given)))
        except FeatherwireError:
            return  # the bar says that the server is away
        if given is not self._given:
            return  # another was given in the meantime
        ids = set(given.values())
        text, tone, done = commands.tally(
            [one for one in found if one.command.command_id in ids], len(ids)
        )
        self._answer.say(f"{self._what}: {text}", tone)
        if done:
            self._given = {}

    def _choose(self, target: str) -> None:
        self._target = target

    async def _send(self, command: fleet_pb2.Command) -> None:
        selector = fleet.selector(self._target, self._ticked)
        if selector is None:
            self._answer.say("Tick devices in the table, or choose a label.", "bad")
            return
        what = commands.what(command, self._names)
        try:
            self._given = await self._frame.connection.fleet.send(selector, command)
        except FeatherwireError as error:
            self._given = {}
            self._answer.say(complaint(error), "bad")
            return
        count = len(self._given)
        if not count:
            self._answer.say("No device has this label any more; nobody was told anything.", "bad")
            return
        self._what = what[:1].upper() + what[1:]
        # As a look at the answers says it: it may come before anybody has read this.
        self._answer.say(f"{self._what}: applied by 0 of {count}, pending on {count}", "warn")

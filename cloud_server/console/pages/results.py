"""The results timeline: filter, list, replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request, Response
from nicegui import ui

from cloud_server.console.pages.frame import Frame, framed
from cloud_server.console.pages.parts import (
    Table,
    Tag,
    button,
    complaint,
    field,
    select,
    set_options,
)
from cloud_server.console.pages.results_player import Player
from cloud_server.console.view import timeline
from cloud_server.tasks import task_names
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import results_pb2

if TYPE_CHECKING:
    from cloud_server.console.app import Console

PAGE = 60
MAX_KEPT = 600
PAGES_AT_ONCE = 8
"""So many pages of the log are looked through for records of a wanted score before it waits."""
LIVE_EVERY_S = 2.0


def register(console: Console) -> None:
    """The page ``/results``."""

    @ui.page("/results", title="Results · Featherwire")
    async def show(request: Request) -> Response | None:
        user = await console.user(request)
        if user is None:
            return console.to_login(request)
        with framed(console, user, "/results") as frame:
            ResultsPage(frame)
        return None


class ResultsPage:
    """Newest first in the table; the player goes the other way."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._wish = timeline.Wish()
        self._records: list[results_pb2.ResultRecord] = []
        self._before = 0
        self._end = False
        self._live = True
        self._busy = False
        self._devices: list[tuple[str, str]] = []
        with Tag("div", classes="head"):
            Tag("h1", "Results")
            self._said = Tag("span", "", "muted", role="status")
        with Tag("section", classes="panel", aria_label="Filter"), Tag("div", classes="filters"):
            self._filters()
        with Tag("div", classes="panel"):
            self._player = Player(frame, self._picked, self._set_live)
        with Tag("div", classes="panel flush scroll", tabindex="0"):
            self._table = Table(
                "Results",
                timeline.COLUMNS,
                "No result fits. Results come from devices that ask for tasks:\n"
                "featherwire-edge send photos/*.jpg --tasks detection",
                on_pick=self._pick,
            )
        button("Older", self._older)
        frame.every(LIVE_EVERY_S, self._look)

    def _filters(self) -> None:
        self._device = select("Device", [("", "all")], lambda text: self._wishes("device", text))
        tasks = [("", "all"), *((name, name) for name in task_names())]
        select("Task", tasks, lambda text: self._wishes("task", text))
        field(
            "Class",
            "text",
            lambda text: self._wishes("class_name", text),
            placeholder="cat, person",
        )
        field(
            "Score at least",
            "number",
            lambda text: self._wishes("least_score", text),
            min="0",
            max="1",
            step="0.05",
        )
        for name, label in (("since", "Since, UTC"), ("until", "Until, UTC")):
            field(label, "datetime-local", lambda text, one=name: self._wishes(one, text))

    async def _wishes(self, name: str, text: str) -> None:
        if name == "least_score":
            try:
                self._wish.least_score = float(text or 0)
            except ValueError:
                return
        else:
            setattr(self._wish, name, text)
        await self._again()

    async def _again(self) -> None:
        """Read the newest page anew."""
        found, before, end = await self._read(0)
        if found is not None:
            self._records, self._before, self._end = found, before, end
            self._show()

    async def _older(self) -> None:
        if self._end:
            self._said.say("This is the beginning of the log.")
            return
        found, before, end = await self._read(self._before)
        if found is not None:
            self._set_live(False)
            self._records = (self._records + found)[-MAX_KEPT:]
            self._before, self._end = before, end
            self._show()

    async def _look(self) -> None:
        devices = sorted(self._frame.connection.devices.devices)
        options = [("", "all"), *((name, name) for name in devices)]
        if options != self._devices:
            self._devices = options
            set_options(self._device, options, self._wish.device)
        if self._live and not self._busy:
            self._busy = True
            try:
                await self._again()
            finally:
                self._busy = False

    async def _read(self, before: int) -> tuple[list[results_pb2.ResultRecord] | None, int, bool]:
        """A page's records that fit, where to go on, and whether that was all."""
        try:
            wanted = self._wish.to_message()
        except ValueError:
            self._said.say("That is no time.", "bad")
            return None, before, False
        found: list[results_pb2.ResultRecord] = []
        end = False
        for _ in range(PAGES_AT_ONCE):
            request = results_pb2.ListResultsRequest(
                filter=wanted, newest_first=True, before_cursor=before, page_size=PAGE
            )
            try:
                page = await self._frame.connection.results.page(request)
            except FeatherwireError as error:
                self._said.say(complaint(error), "bad")
                return None, before, False
            found += [record for record in page.records if self._wish.keeps(record)]
            before, end = page.next_cursor, page.end
            if end or len(found) >= PAGE:
                break
        return found, before, end

    def _show(self) -> None:
        more = "" if self._end else ", and older ones"
        self._said.say(f"{len(self._records)} results{more}" if self._records else "")
        self._player.load(list(reversed(self._records)), newest=self._live)
        self._list()

    def _list(self) -> None:
        self._table.show(rows=timeline.rows(self._records, self._player.cursor))

    def _picked(self) -> None:
        """The player shows another record."""
        self._list()

    def _pick(self, key: str) -> None:
        self._set_live(False)
        self._player.go_to(int(key))

    def _set_live(self, live: bool) -> None:
        self._live = live
        self._player.say_live(live)

"""The results timeline: filter, list, replay."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import quote

from cloud_server.console.pages.parts import (
    Frame,
    Input,
    Table,
    Tag,
    button,
    checkbox,
    complaint,
    field,
    select,
    set_options,
)
from cloud_server.console.pages.pictures import Fetch, Loader, Stage
from cloud_server.console.view import overlay, timeline
from cloud_server.tasks import task_names
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import results_pb2

PAGE = 60
MAX_KEPT = 600
PAGES_AT_ONCE = 8
"""So many pages of the log are looked through for records of a wanted score before it waits."""
LIVE_EVERY_S = 2.0


def build(frame: Frame) -> None:
    """The page ``/results``."""
    ResultsPage(frame)


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
            self._summary = Tag("span", "", "muted", role="status")
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
        with Tag("div", classes="row"):
            button("Older", self._older)
            self._downloads = {
                path: Tag("a", f"Download {name}", "download", href=path, download="")
                for path, name in (("/results.csv", "CSV"), ("/results.coco.json", "COCO JSON"))
            }
            Tag("span", "All results that fit the filter, not only those listed.", "muted small")
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
            field(label, "datetime-local", partial(self._wishes, name))

    async def _wishes(self, name: str, text: str) -> None:
        if name == "least_score":
            try:
                self._wish.least_score = float(text or 0)
            except ValueError:
                return
        else:
            setattr(self._wish, name, text)
        for path, link in self._downloads.items():
            link.attribute("href", path + self._wish.query)
        await self._again()

    async def _again(self) -> None:
        """Read the newest page anew."""
        found, before, end = await self._read(0)
        if found is not None:
            self._records, self._before, self._end = found, before, end
            self._show()

    async def _older(self) -> None:
        if self._end:
            self._summary.say("This is the beginning of the log.")
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
            self._summary.say("That is no time.", "bad")
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
                self._summary.say(complaint(error), "bad")
                return None, before, False
            found += [record for record in page.records if self._wish.keeps(record)]
            before, end = page.next_cursor, page.end
            if end or len(found) >= PAGE:
                break
        return found, before, end

    def _show(self) -> None:
        more = "" if self._end else ", and older ones"
        self._summary.say(f"{len(self._records)} results{more}" if self._records else "")
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


SPEEDS = (("0.5", "half"), ("1", "as it was"), ("2", "2 x"), ("5", "5 x"), ("20", "20 x"))
STEP_S = 0.1
WAITS_S = 8.0
"""A picture that has not come by then is passed over."""

NOTHING = "Nothing to show yet."


class Player:
    """Shows records in the order of the log. ``on_step``: it shows another one; ``on_live``:
    somebody wants to see new ones as they come, or no more."""

    def __init__(
        self, frame: Frame, on_step: Callable[[], None], on_live: Callable[[bool], None]
    ) -> None:
        self._records: list[results_pb2.ResultRecord] = []
        self._gaps_s: list[float] = []
        self._at = -1
        self._wanted: int | None = None
        self._shown: results_pb2.ResultRecord | None = None
        self._playing = False
        self._speed = 1.0
        self._due = 0.0
        self._asked_at = 0.0
        self._on_step = on_step
        self._on_live = on_live
        self._live_now = True
        with Tag("div", classes="split"):
            with Tag("div"):
                self._stage = Stage(NOTHING, save=True)
                self._loader = Loader()
                self._scrub = Input(
                    "range",
                    on_moved=self._scrubbed,
                    min="0",
                    max="0",
                    step="1",
                    value="0",
                    disabled=True,
                    aria_label="Place in the timeline",
                )
            with Tag("div"):
                with Tag("div", classes="row"):
                    self._play = button("Play", self._toggle)
                    button("‹", lambda: self._step(-1), aria_label="Frame before")
                    button("›", lambda: self._step(1), aria_label="Next frame")
                    self._live = button(
                        "Live", lambda: on_live(not self._live_now), aria_pressed="true"
                    )
                with Tag("div", classes="row"):
                    set_options(select("Speed", [], self._set_speed), SPEEDS, "1")
                    self._play_from = Tag("a", "", "download")
                with Tag("div", classes="row"):
                    for layer in ("boxes", "masks", "landmarks"):
                        checkbox(
                            layer.capitalize(),
                            partial(self._stage.toggle, layer),
                            checked=True,
                        )
                self._found = Table("Found in this frame", overlay.COLUMNS, NOTHING)
        frame.every(STEP_S, self._tick)

    @property
    def cursor(self) -> int | None:
        """Of the record that is shown."""
        return None if self._shown is None else self._shown.cursor

    def load(self, records: list[results_pb2.ResultRecord], *, newest: bool) -> None:
        """Other records; the one that is wanted stays, unless the newest is."""
        before = self._records[self._at].cursor if 0 <= self._at < len(self._records) else None
        self._records = records
        self._gaps_s = timeline.gaps_s(records, self._speed)
        cursors = [one.cursor for one in records]
        self._scrub.show(max=str(max(0, len(records) - 1)), disabled=len(records) < 2)
        if not records:
            self._at = -1
            self._wanted = self._shown = None
            self._loader.drop()
            self._stage.show(src="", overlay={}, caption="", label="", problem="", hint=NOTHING)
            self._found.show(rows=[], empty=NOTHING)
        elif newest or before not in cursors:
            self._go(len(records) - 1)
        else:
            self._at = cursors.index(before)
            self._scrub.show(value=str(self._at))
            self._caption()

    def go_to(self, cursor: int) -> None:
        """Show that record."""
        for at, one in enumerate(self._records):
            if one.cursor == cursor:
                self._go(at, at_once=True)

    def say_live(self, live: bool) -> None:
        """Whether new records are shown as they come."""
        self._live_now = live
        self._live.attribute("aria-pressed", "true" if live else "false")
        if live:
            self._stop()
            if self._records:
                self._go(len(self._records) - 1)

    # -- parts -----------------------------------------------------------------------------------

    def _toggle(self) -> None:
        if self._playing or not self._records:
            self._stop()
            return
        self._on_live(False)
        if self._at >= len(self._records) - 1:
            self._go(0, at_once=True)
        self._playing = True
        self._due = time.monotonic() + self._gaps_s[self._at]
        self._play.say("Pause")

    def _stop(self) -> None:
        self._playing = False
        self._play.say("Play")

    def _step(self, by: int) -> None:
        self._stop()
        self._on_live(False)
        if self._records:
            self._go(min(max(self._at + by, 0), len(self._records) - 1), at_once=True)

    def _scrubbed(self, place: str) -> None:
        self._stop()
        self._on_live(False)
        if place.isdigit() and int(place) < len(self._records):
            self._go(int(place), at_once=True)

    def _set_speed(self, text: str) -> None:
        self._speed = float(text)
        self._gaps_s = timeline.gaps_s(self._records, self._speed)

    def _tick(self) -> None:
        now = time.monotonic()
        self._stage.show(busy=self._loader.look())
        if not self._playing or now < self._due:
            return
        if self._loader.busy and now - self._asked_at < WAITS_S:
            return
        if self._at >= len(self._records) - 1:
            self._stop()
            return
        self._go(self._at + 1, at_once=True)
        self._due = now + self._gaps_s[self._at]

    def _go(self, at: int, *, at_once: bool = False) -> None:
        """Show the record of that place as soon as its picture is there. at_once: and none that was
        wanted before."""
        record = self._records[at]
        again = self._at >= 0 and self._wanted == record.cursor
        self._at = at
        self._wanted = record.cursor
        self._scrub.show(
            value=str(at), **{"aria-valuetext": f"frame {record.sequence} of {record.device}"}
        )
        if again:
            self._caption()
            return
        self._asked_at = time.monotonic()
        text = f"Reconstructing frame {record.sequence} of {record.device}."
        if self._shown is None:
            self._stage.show(hint=text)
            self._found.show(empty=text)
        path = timeline.wanted(record).url
        self._loader.want(Fetch(text, [path], partial(self._show, record)), at_once=at_once)
        following = self._records[at + 1] if at + 1 < len(self._records) else None
        ahead = [] if following is None else [timeline.wanted(following).url]
        self._loader.show(ahead=ahead if self._playing else [])

    def _show(self, record: results_pb2.ResultRecord, problems: Mapping[str, str]) -> None:
        """All at once, so that nothing beside the picture is of another frame."""
        self._shown = record
        outcome = record.outcome
        analysis = outcome.analysis
        self._stage.picture(
            timeline.wanted(record).url,
            problems,
            (analysis.width, analysis.height),
            label=f"Frame {record.sequence}: {overlay.in_words(analysis)}",
            overlay=overlay.shapes(analysis),
        )
        self._caption()
        self._found.show(
            rows=overlay.findings(analysis, outcome.task_errors), empty=overlay.nothing(outcome)
        )
        self._on_step()

    def _caption(self) -> None:
        record = self._shown
        if record is None:
            return
        cursors = [one.cursor for one in self._records]
        place = ""
        if record.cursor in cursors:
            place = f" ({cursors.index(record.cursor) + 1} of {len(cursors)})"
        self._play_from.say(f"Play {record.device} from here")
        self._play_from.attribute("href", f"/play/{quote(record.device)}?at={record.cursor}")
        still = timeline.unchanged(record)
        self._stage.show(
            caption=f"{record.device}, frame {record.sequence}, state {record.state}, "
            f"{timeline.moment(record)}{still and f', {still}'}{place}"
        )

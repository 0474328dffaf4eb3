"""Replay: one stored frame after the other, at a chosen speed."""

from __future__ import annotations

import time
from collections.abc import Callable

from cloud_server.console.pages.frame import Frame
from cloud_server.console.pages.parts import (
    Input,
    Stage,
    Table,
    Tag,
    button,
    checkbox,
    select,
    set_options,
)
from cloud_server.console.view import formats, overlay, timeline
from shared.proto.featherwire.v1 import results_pb2

SPEEDS = (("0.5", "half"), ("1", "as it was"), ("2", "2 x"), ("5", "5 x"), ("20", "20 x"))
STEP_S = 0.1
WAITS_S = 8.0
"""A picture that has not come by then is passed over."""


class Player:
    """Shows records in the order of the log. ``on_step``: it shows another one; ``on_live``:
    somebody wants to see new ones as they come, or no more."""

    def __init__(
        self, frame: Frame, on_step: Callable[[], None], on_live: Callable[[bool], None]
    ) -> None:
        self._records: list[results_pb2.ResultRecord] = []
        self._gaps_s: list[float] = []
        self._at = -1
        self._playing = False
        self._speed = 1.0
        self._due = 0.0
        self._asked_at = 0.0
        self._came = True
        self._on_step = on_step
        self._on_live = on_live
        self._live_now = True
        with Tag("div", classes="split"):
            with Tag("div"):
                self._stage = Stage("Nothing to show yet.")
                self._stage.on("shown", self._shown)
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
                with Tag("div", classes="row"):
                    for layer in ("boxes", "masks", "landmarks"):
                        checkbox(
                            layer.capitalize(),
                            lambda on, one=layer: self._stage.toggle(one, on),
                            checked=True,
                        )
                self._found = Table("Found in this frame", overlay.COLUMNS, "Nothing was found.")
        frame.every(STEP_S, self._tick)

    @property
    def cursor(self) -> int | None:
        """Of the record that is shown."""
        return self._records[self._at].cursor if 0 <= self._at < len(self._records) else None

    def load(self, records: list[results_pb2.ResultRecord], *, newest: bool) -> None:
        """Other records; the one that is shown stays, unless the newest is wanted."""
        shown = self.cursor
        self._records = records
        self._gaps_s = timeline.gaps_s(records, self._speed)
        cursors = [one.cursor for one in records]
        self._scrub.show(max=str(max(0, len(records) - 1)), disabled=len(records) < 2)
        if not records:
            self._at = -1
            self._stage.show(src="", overlay={}, caption="", label="")
            self._found.show(rows=[])
        elif newest or shown not in cursors:
            self._go(len(records) - 1)
        else:
            self._at = cursors.index(shown)
            self._scrub.show(value=str(self._at))

    def go_to(self, cursor: int) -> None:
        """Show that record."""
        for at, one in enumerate(self._records):
            if one.cursor == cursor:
                self._go(at)

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
            self._go(0)
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
            self._go(min(max(self._at + by, 0), len(self._records) - 1))

    def _scrubbed(self, place: str) -> None:
        self._stop()
        self._on_live(False)
        if place.isdigit() and int(place) < len(self._records):
            self._go(int(place))

    def _set_speed(self, text: str) -> None:
        self._speed = float(text)
        self._gaps_s = timeline.gaps_s(self._records, self._speed)

    def _shown(self) -> None:
        self._came = True

    def _tick(self) -> None:
        now = time.monotonic()
        if not self._playing or now < self._due:
            return
        if not self._came and now - self._asked_at < WAITS_S:
            return
        if self._at >= len(self._records) - 1:
            self._stop()
            return
        self._go(self._at + 1)
        self._due = now + self._gaps_s[self._at]

    def _go(self, at: int) -> None:
        record = self._records[at]
        again = at == self._at and self._stage._props["src"] == timeline.wanted(record).url
        self._at = at
        self._scrub.show(value=str(at))
        if again:
            return
        analysis = record.outcome.analysis
        following = self._records[at + 1] if at + 1 < len(self._records) else None
        self._came = False
        self._asked_at = time.monotonic()
        self._scrub.show(**{"aria-valuetext": f"frame {record.sequence} of {record.device}"})
        self._stage.show(
            src=timeline.wanted(record).url,
            next=timeline.wanted(following).url if following is not None else "",
            width=analysis.width or 4,
            height=analysis.height or 3,
            label=f"Frame {record.sequence}: {overlay.in_words(analysis)}",
            overlay=overlay.shapes(analysis),
            caption=f"{record.device}, frame {record.sequence}, state {record.state}, captured "
            f"{formats.instant(record.captured_at)} UTC ({at + 1} of {len(self._records)})",
        )
        self._found.show(rows=overlay.findings(analysis))
        self._on_step()

"""What an operator gives a device: its rate by the state slider, and every other command.

The slider shows bytes against quality at once, and sets the device's rate when it is let go.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from cloud_server.console.pages.forms import BundleForm, FrameRateForm, TaskForm
from cloud_server.console.pages.parts import (
    Frame,
    Input,
    Table,
    Tag,
    button,
    complaint,
    field,
    notice,
    select,
    set_options,
)
from cloud_server.console.pages.pictures import Fetch, Loader, Stage
from cloud_server.console.view import commands, formats
from cloud_server.console.view.rates import Ladder
from cloud_server.console.view.timeline import wanted
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import fleet_pb2, results_pb2

SIDES = ("Left", "Top", "Right", "Bottom")
NEWEST = 8


class CommandPanel:
    """Panels of commands, and the table of their answers; nothing for who only reads."""

    def __init__(self, frame: Frame, device: str, stage: Stage) -> None:
        self._frame = frame
        self._device = device
        self._stage = stage
        self._table: Table | None = None
        self._names: Mapping[str, str] = {}
        self._record: results_pb2.ResultRecord | None = None
        self._finest = 0
        self._corners = [25.0, 25.0, 75.0, 75.0]
        self._inside = 0
        self._taken: list[list[float]] = []
        self._asked_at = 0.0
        self._pending = -1
        if not frame.user.commands:
            return
        with Tag("section", classes="panel", aria_label="Commands"):
            self._region_panel()
            Tag("h3", "Tasks")
            self._tasks = TaskForm(self._send)
            Tag("h3", "Frame and bundle")
            with Tag("div", classes="row"):
                self._refine = button("Refine frame", self._refine_frame, disabled=True)
                button(
                    "Key frame", self._key_frame, title="the next frame refers to none before it"
                )
            self._bundle = BundleForm(self._send)
            self._answer = notice()

    def show_table(self) -> None:
        """The newest commands to this device."""
        self._table = Table(
            "Commands to this device",
            commands.OF_DEVICE,
            "No command was given to this device.",
            on_act=self._cancel,
        )

    def describe(self, device: fleet_pb2.Device, names: Mapping[str, str]) -> None:
        """The device as it is now; ``names`` of bundles, by id."""
        if not self._frame.user.commands:
            return
        self._names = names
        self._bundle.describe(names, device.bundle_id)
        if not self._tasks.known and device.tasks:
            self._tasks.tick(set(device.tasks))
        boxes = [one.box for one in device.regions]
        self._taken = [[one.x_min, one.y_min, one.x_max, one.y_max] for one in boxes]
        if self._record is not None and self._record.session != device.session:
            self._taken = []  # the regions are the new session's, the frame is not
        self._can_refine(device)
        if self._draw._props["aria-pressed"] == "false":
            self._stage.show(regions=self._taken)

    def shown(
        self,
        record: results_pb2.ResultRecord,
        ladder: Ladder | None,
        device: fleet_pb2.Device | None,
    ) -> None:
        """Another frame is shown, of these states."""
        if not self._frame.user.commands:
            return
        self._record = record
        self._finest = 0 if ladder is None else ladder.finest
        self._refine.say(f"Refine frame {record.sequence}")
        self._can_refine(device)
        if not self._tasks.known and record.outcome.analysis.tasks:
            self._tasks.tick(set(record.outcome.analysis.tasks))

    def _can_refine(self, device: fleet_pb2.Device | None) -> None:
        """Only where there is a finer one, in a session that the device has not left."""
        record = self._record
        why = ""
        if record is None:
            why = "no frame is shown yet"
        elif record.state <= self._finest:
            why = f"this frame is at the finest state, {record.state}"
        elif device is not None and device.session != record.session:
            why = "the device has left the session of this frame"
        self._refine.attribute("disabled", bool(why))
        self._refine.attribute("title", why or f"to state {self._finest}")

    async def look(self, device: fleet_pb2.Device | None) -> None:
        """See what has become of commands, when there may be something new."""
        if self._table is None or device is None:
            return
        now = time.monotonic()
        waiting = device.pending_commands
        if now - self._asked_at < (1.0 if waiting or self._pending != waiting else 2.0):
            return
        self._asked_at, self._pending = now, waiting
        try:
            found = await self._frame.connection.fleet.commands(self._device, count=NEWEST)
        except FeatherwireError:
            return  # the bar says that the server is away
        self._table.show(rows=commands.rows_of_device(found, self._names))
        for one in found[:1]:
            answer = commands.answer(one)
            if one.command.WhichOneof("command") != "set_rate":
                what = commands.what(one.command, self._names)
                self._answer.say(f"{what[:1].upper()}{what[1:]}: {answer['text']}", answer["tone"])

    # -- panels ----------------------------------------------------------------------------------

    def _region_panel(self) -> None:
        Tag("h2", "Region of interest")
        with Tag("div", classes="row"):
            self._draw = button("Draw on the picture", self._toggle_drawing, aria_pressed="false")
            self._stage.on("region", lambda event: self._drawn(event.args))
        with Tag("div", classes="row"):
            self._sides = [
                field(
                    f"{side}, %",
                    "number",
                    partial(self._typed, at),
                    min="0",
                    max="100",
                    step="1",
                    value=f"{self._corners[at]:.0f}",
                )
                for at, side in enumerate(SIDES)
            ]
        with Tag("div", classes="row"):
            field(
                "State inside",
                "number",
                self._set_inside,
                min="0",
                max="255",
                step="1",
                value="0",
            )
            button("Set region", self._set_region, main=True)
            button("No region", self._no_region)

    # -- what is chosen --------------------------------------------------------------------------

    def _toggle_drawing(self) -> None:
        drawing = self._draw._props["aria-pressed"] == "false"
        self._draw.attribute("aria-pressed", "true" if drawing else "false")
        self._stage.show(drawing=drawing, regions=[self._region()] if drawing else self._taken)

    def _drawn(self, corners: object) -> None:
        if isinstance(corners, list) and len(corners) == 4:
            self._corners = [round(100 * float(one), 1) for one in corners]
            for side, value in zip(self._sides, self._corners, strict=True):
                side.show(value=f"{value:g}")
            self._stage.show(regions=[self._region()])

    def _typed(self, at: int, text: str) -> None:
        try:
            self._corners[at] = min(100.0, max(0.0, float(text)))
        except ValueError:
            return
        self._stage.show(regions=[self._region()])

    def _region(self) -> list[float]:
        return [one / 100 for one in self._corners]

    def _set_inside(self, text: str) -> None:
        self._inside = int(text) if text.isdigit() else 0

    # -- what is sent ----------------------------------------------------------------------------

    async def _set_region(self) -> None:
        left, top, right, bottom = self._region()
        if left >= right or top >= bottom:
            self._answer.say(
                "A region has its left before its right, its top above its bottom.", "bad"
            )
            return
        if await self._send(
            commands.set_regions((left, top, right, bottom), min(self._inside, 255))
        ):
            self._draw.attribute("aria-pressed", "false")
            self._stage.show(drawing=False)

    async def _no_region(self) -> None:
        self._draw.attribute("aria-pressed", "false")
        self._stage.show(drawing=False)
        await self._send(commands.set_regions(None, 0))

    async def _refine_frame(self) -> None:
        record = self._record
        if record is not None:
            await self._send(
                commands.refine(
                    record.sequence, record.session, self._finest, record.bundle_short_id
                )
            )

    async def _key_frame(self) -> None:
        await self._send(commands.key_frame())

    async def _cancel(self, command_id: str) -> None:
        try:
            await self._frame.connection.fleet.cancel([command_id])
        except FeatherwireError as error:
            self._answer.say(complaint(error), "bad")
        self._asked_at = 0.0

    async def _send(self, command: fleet_pb2.Command) -> bool:
        """Whether the server has taken it."""
        try:
            given = await _send_to(self._frame, self._device, command)
        except FeatherwireError as error:
            self._answer.say(complaint(error), "bad")
            return False
        what = commands.what(command, self._names)
        self._answer.say(f"{what[:1].upper()}{what[1:]}: pending ({given})", "warn")
        self._asked_at = time.monotonic()
        self._pending = -1
        return True


async def _send_to(frame: Frame, device: str, command: fleet_pb2.Command) -> str:
    """Give one device a command; returns its id. Raises ``FeatherwireError``."""
    selector = fleet_pb2.DeviceSelector(devices=[device])
    return (await frame.connection.fleet.send(selector, command))[device]


SETTLES_S = 0.6
"""So long after the slider was let go the command is given: arrow keys let go at every step."""

ANSWER_EVERY_S = 1.0


class RatePanel:
    """Shows the frame cut to the slider's state on ``cut``, and commands its device."""

    def __init__(self, frame: Frame, device: str, cut: Stage) -> None:
        self._frame = frame
        self._device = device
        self._cut = cut
        self._record: results_pb2.ResultRecord | None = None
        self._ladder: Ladder | None = None
        self._chosen: int | None = None
        self._decoder = ""
        self._offered: tuple[str, ...] = ()
        self._due: float | None = None
        self._given: str | None = None
        self._asked_at = 0.0
        self._loader = Loader()
        with Tag("section", classes="panel", aria_label="Rate"):
            Tag("h2", "Rate" if frame.user.commands else "Bytes against quality")
            self._slider = Input(
                "range",
                on_moved=self._moved,
                on_settled=self._let_go if frame.user.commands else None,
                min="0",
                max="8",
                step="1",
                disabled=True,
                aria_label="State, from the coarsest to the finest",
            )
            with Tag("div", classes="ends"):
                Tag("span", "fewer bytes")
                Tag("span", "finer picture")
            with Tag("div", classes="row", hidden=True) as self._decoder_row:
                self._decoders = select("Decoder", [], self._choose_decoder)
            with Tag("div", classes="rate-line"):
                self._summary = Tag("span", "Waiting for a frame.", "num strong")
                self._saved = Tag("span", "", "muted num")
            if frame.user.commands:
                with Tag("div", classes="row"):
                    Tag("span", "Letting the slider go sets the device's state.", "muted small")
                    button("Its own rate", self._give_back)
                self._frame_rate = FrameRateForm(self._send)
            self._answer = notice()

    def describe(self, device: fleet_pb2.Device) -> None:
        """The device as it is now."""
        if self._frame.user.commands:
            self._frame_rate.describe(device.rate_policy.max_frames_per_second)

    def path(self, record: results_pb2.ResultRecord, ladder: Ladder | None) -> str:
        """Of the picture that belongs beside that of ``record``; empty where there is none.

        The frame as it came is the same picture: it is not reconstructed a second time.
        """
        if ladder is None:
            return ""
        state = self._state(ladder)
        if not ladder.can_show(state):
            return ""
        as_it_came = state == ladder.present.state and record.state == state
        at = None if as_it_came else state
        return replace(wanted(record), state=at, decoder=self._other_decoder(ladder)).url

    def shown(
        self,
        record: results_pb2.ResultRecord,
        ladder: Ladder | None,
        path: str,
        problems: Mapping[str, str],
    ) -> None:
        """Another frame is shown, and ``path`` has been fetched for it."""
        self._loader.drop()
        self._record, self._ladder = record, ladder
        if ladder is None:
            self._summary.say("The bytes of this frame are not known.", "bad")
            self._saved.say("")
            self._slider.show(disabled=True)
            self._cut.show(src="", caption="", problem="", busy="", hint="")
            return
        self._offer(ladder)
        place = {"value": str(ladder.place(self._state(ladder)))}
        self._slider.show(max=str(len(ladder.steps) - 1), disabled=False, **place)
        self._say()
        if self.path(record, ladder) == path:
            self._draw(path, problems)
        else:  # the slider was moved meanwhile
            self._fetch()

    async def look(self) -> None:
        """Give the command that is due, and see what has become of the last one."""
        now = time.monotonic()
        self._cut.show(busy=self._loader.look())
        if self._due is not None and now >= self._due and self._chosen is not None:
            self._due = None
            await self._send(commands.set_state(self._chosen))
        if self._given is not None and now - self._asked_at >= ANSWER_EVERY_S:
            self._asked_at = now
            await self._see_answer(self._given)

    # -- parts -----------------------------------------------------------------------------------

    def _state(self, ladder: Ladder) -> int:
        """The one that is chosen, of those that there are; else the frame's own."""
        chosen = ladder.present.state if self._chosen is None else self._chosen
        return ladder.rung(chosen).state

    def _other_decoder(self, ladder: Ladder) -> str:
        """The decoder that is chosen; empty where it is the bundle's first, or not the bundle's."""
        return self._decoder if self._decoder in ladder.decoders[1:] else ""

    def _offer(self, ladder: Ladder) -> None:
        """The bundle's decoders, where there is a choice."""
        if ladder.decoders != self._offered:
            self._offered = ladder.decoders
            names = [(name, name) for name in ladder.decoders]
            set_options(self._decoders, names, self._other_decoder(ladder))
            self._decoder_row.attribute("hidden", len(names) < 2)

    def _choose_decoder(self, name: str) -> None:
        self._decoder = name
        self._fetch()

    def _moved(self, place: str) -> None:
        """The slider's right end is the finest state."""
        if self._ladder is None or not place.isdigit():
            return
        steps = self._ladder.steps
        self._chosen = steps[min(int(place), len(steps) - 1)].state
        self._say()
        self._fetch()

    def _let_go(self, place: str) -> None:
        self._moved(place)
        self._due = time.monotonic() + SETTLES_S

    def _say(self) -> None:
        if self._ladder is None:
            return
        state = self._state(self._ladder)
        words = self._ladder.rung(state).in_words()
        self._summary.say(words[:1].upper() + words[1:])
        present = self._ladder.present
        now = f"{formats.size(present.size_bytes)}, {present.bits_per_pixel:.3f} bits/pixel"
        self._saved.say(f"{self._ladder.saving(state)} ({now})")
        self._slider.show(**{"aria-valuetext": words})

    def _fetch(self) -> None:
        """The same frame at another state."""
        if self._record is None or self._ladder is None:
            return
        path = self.path(self._record, self._ladder)
        state = self._state(self._ladder)
        how = self._other_decoder(self._ladder)
        by = f" by {how}" if how else ""
        text = f"Reconstructing frame {self._record.sequence} at state {state}{by}."
        fetch = Fetch(text, [path] if path else [], lambda problems: self._draw(path, problems))
        self._loader.want(fetch, at_once=True)

    def _draw(self, path: str, problems: Mapping[str, str]) -> None:
        if self._record is None or self._ladder is None:
            return
        analysis = self._record.outcome.analysis
        state = self._state(self._ladder)
        rung = self._ladder.rung(state)
        if not path:
            self._cut.show(
                src="",
                caption="",
                problem="",
                busy="",
                hint=self._ladder.why_not(state),
                width=analysis.width or 4,
                height=analysis.height or 3,
            )
            return
        how = self._other_decoder(self._ladder)
        by = f", by {how}" if how else ""
        self._cut.picture(
            path,
            problems,
            (analysis.width, analysis.height),
            label=f"The same frame at state {state}",
            caption=f"the same frame, {self._record.sequence}, at {rung.in_words()}{by}",
        )

    async def _give_back(self) -> None:
        self._due = None
        await self._send(commands.own_rate())

    async def _send(self, command: fleet_pb2.Command) -> None:
        try:
            self._given = await _send_to(self._frame, self._device, command)
        except FeatherwireError as error:
            self._given = None
            self._answer.say(complaint(error), "bad")
            return
        self._asked_at = 0.0
        self._answer.say(f"{_named(command)}: pending ({self._given}).", "warn")

    async def _see_answer(self, given: str) -> None:
        try:
            found = await self._frame.connection.fleet.commands(self._device, count=20)
        except FeatherwireError:
            return  # the bar says that the server is away
        for one in found:
            if one.command.command_id == given and one.HasField("reply"):
                self._given = None
                answer = commands.answer(one)
                self._answer.say(
                    f"{_named(one.command)}: {answer['text']} ({given}).", answer["tone"]
                )


def _named(command: fleet_pb2.Command) -> str:
    text = commands.what(command, {}).removeprefix("rate: ")
    return text[:1].upper() + text[1:]

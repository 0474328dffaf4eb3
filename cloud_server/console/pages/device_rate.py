"""The state slider: bytes against quality at once, and the device's rate when it is let go."""

from __future__ import annotations

import time
from dataclasses import replace

from cloud_server.console.pages.frame import Frame
from cloud_server.console.pages.parts import Input, Stage, Tag, complaint, notice
from cloud_server.console.view import commands, formats
from cloud_server.console.view.quality import Ladder, ladder
from cloud_server.console.view.timeline import wanted
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import fleet_pb2, results_pb2

SETTLES_S = 0.6
"""So long after the slider was let go the command is given: arrow keys let go at every step."""

ANSWER_EVERY_S = 1.0


class RatePanel:
    """Shows the latest frame cut to the slider's state on ``cut``, and commands its device."""

    def __init__(self, frame: Frame, device: str, cut: Stage) -> None:
        self._frame = frame
        self._device = device
        self._cut = cut
        self._record: results_pb2.ResultRecord | None = None
        self._ladder: Ladder | None = None
        self._chosen: int | None = None
        self._due: float | None = None
        self._given: str | None = None
        self._asked_at = 0.0
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
            with Tag("div", classes="rate-line"):
                self._said = Tag("span", "Waiting for a frame.", "num strong")
                self._saved = Tag("span", "", "muted num")
            if frame.user.commands:
                Tag("p", "Letting the slider go sets the device's state.", "muted small")
            self._answer = notice()

    async def shown(self, record: results_pb2.ResultRecord) -> None:
        """Another frame is shown: fetch what it takes at each state."""
        key = results_pb2.FrameKey(
            device=record.device, session=record.session, sequence=record.sequence
        )
        try:
            bitstream, _ = await self._frame.connection.results.frame(key)
            bundles = await self._frame.connection.bundles()
        except FeatherwireError as error:
            self._said.say(complaint(error), "bad")
            return
        short = bitstream.bundle_id.hex()
        typical = {
            one.state: one.typical_bits_per_pixel
            for bundle in bundles
            if bundle.bundle_id.startswith(short)
            for one in bundle.states
        }
        self._record = record
        self._ladder = ladder(bitstream, typical)
        place = (
            {}
            if self._chosen is not None
            else {"value": str(self._ladder.coarsest - bitstream.state)}
        )
        self._slider.show(max=str(self._ladder.coarsest), disabled=False, **place)
        self._show()

    async def look(self) -> None:
        """Give the command that is due, and see what has become of the last one."""
        now = time.monotonic()
        if self._due is not None and now >= self._due and self._chosen is not None:
            self._due = None
            await self._command(self._chosen)
        if self._given is not None and now - self._asked_at >= ANSWER_EVERY_S:
            self._asked_at = now
            await self._see_answer(self._given)

    # -- parts -----------------------------------------------------------------------------------

    def _state(self, place: str) -> int | None:
        """The slider's right end is the finest state, 0."""
        if self._ladder is None or not place.isdigit():
            return None
        return max(0, self._ladder.coarsest - int(place))

    def _moved(self, place: str) -> None:
        state = self._state(place)
        if state is not None:
            self._chosen = state
            self._show()

    def _let_go(self, place: str) -> None:
        self._moved(place)
        self._due = time.monotonic() + SETTLES_S

    def _show(self) -> None:
        if self._ladder is None or self._record is None:
            return
        state = self._ladder.present.state if self._chosen is None else self._chosen
        state = min(state, self._ladder.coarsest)
        rung = self._ladder.rungs[state]
        self._said.say(rung.in_words()[:1].upper() + rung.in_words()[1:])
        present = self._ladder.present
        now = f"{formats.size(present.size_bytes)}, {present.bits_per_pixel:.3f} bits/pixel"
        self._saved.say(f"{self._ladder.saving(state)} ({now})")
        self._slider.show(**{"aria-valuetext": rung.in_words()})
        analysis = self._record.outcome.analysis
        can = self._ladder.can_show(state)
        self._cut.show(
            src=replace(wanted(self._record), state=state).url if can else "",
            width=analysis.width or 4,
            height=analysis.height or 3,
            label=f"The same frame at state {state}",
            caption=f"the same frame at {rung.in_words()}" if can else "",
            hint=f"This frame came at state {present.state}; state {state} is finer.",
        )

    async def _command(self, state: int) -> None:
        try:
            command = commands.set_state(state)
            self._given = await self._frame.connection.fleet.send(self._device, command)
        except FeatherwireError as error:
            self._given = None
            self._answer.say(complaint(error), "bad")
            return
        self._answer.say(f"State {state}: pending ({self._given}).", "warn")
        self._asked_at = 0.0

    async def _see_answer(self, given: str) -> None:
        try:
            found = await self._frame.connection.fleet.commands(self._device, count=20)
        except FeatherwireError:
            return  # the bar says that the server is away
        for one in found:
            if one.command.command_id == given and one.HasField("reply"):
                self._given = None
                self._tell(one)

    def _tell(self, one: fleet_pb2.IssuedCommand) -> None:
        answer = commands.answer(one)
        state = one.command.set_rate.policy.state
        self._answer.say(
            f"State {state}: {answer['text']} ({one.command.command_id}).", answer["tone"]
        )

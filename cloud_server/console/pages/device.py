"""One device: its latest frame, what was found, and the commands for it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from urllib.parse import quote

from cloud_server.console.pages.device_panels import CommandPanel, RatePanel
from cloud_server.console.pages.parts import (
    LOOK_EVERY_S,
    Frame,
    Table,
    Tag,
    button,
    checkbox,
    complaint,
    figure,
    notice,
)
from cloud_server.console.pages.pictures import Fetch, Loader, Stage
from cloud_server.console.view import fleet, formats, overlay
from cloud_server.console.view.rates import Ladder, ladder
from cloud_server.console.view.timeline import moment, unchanged, wanted
from cloud_server.fleet.words import policy_in_words, state_in_words
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import fleet_pb2, results_pb2

FIGURES = ("Status", "State", "Bits/pixel", "Frames/s", "Rate", "Queue", "Rate set", "Bundle")
LAYERS = (("boxes", "Boxes"), ("masks", "Masks"), ("landmarks", "Landmarks"))
NO_FRAME = "No frame has come from this device yet."


def build(frame: Frame, name: str) -> None:
    """The page ``/device/NAME``."""
    DevicePage(frame, name[:128])


class DevicePage:
    """What is on the page, and what keeps it true."""

    def __init__(self, frame: Frame, device: str) -> None:
        self._frame = frame
        self._device = device
        self._feed = frame.connection.of_device(device)
        self._seen = -1
        self._record: results_pb2.ResultRecord | None = None
        self._follow = True
        frame.join(self._feed)
        with Tag("div", classes="head"):
            Tag("h1", device)
            Tag("a", "Play back", href=f"/play/{quote(device)}")
            self._about = Tag("span", "", "muted")
        with Tag("div", classes="figures"):
            self._figures = {name: figure(name) for name in FIGURES}
        with Tag("div", classes="split" if frame.user.commands else ""):
            with Tag("div"):
                self._pictures()
                self._rate = RatePanel(frame, device, self._cut)
                with Tag("section", classes="panel flush", aria_label="Found in this frame"):
                    self._found = Table(
                        "Found in this frame", overlay.COLUMNS, "No frame is shown yet."
                    )
            with Tag("div"):
                self._commands = CommandPanel(frame, device, self._stage)
        if frame.user.commands:
            with Tag("section", classes="panel flush", aria_label="Commands to this device"):
                self._commands.show_table()
            with Tag("div", classes="row"):
                self._forget = button("Forget this device", self._forget_it, disabled=True)
                Tag("span", "It leaves the list; its results stay.", "muted small")
            self._forgot = notice()
        frame.every(LOOK_EVERY_S, self._look)

    def _pictures(self) -> None:
        with Tag("section", classes="panel", aria_label="Latest frame"):
            with Tag("div", classes="row"):
                Tag("h2", "Latest frame")
                for layer, text in LAYERS:
                    checkbox(text, partial(self._toggle, layer), checked=True)
                checkbox("Follow", self._set_follow, checked=True)
            with Tag("div", classes="pair"):
                self._stage = Stage("Waiting for the server.", save=True)
                self._cut = Stage("The same frame, cut to the state of the slider.")
            self._loader = Loader()

    def _toggle(self, layer: str, shown: bool) -> None:
        self._stage.toggle(layer, shown)

    def _set_follow(self, follow: bool) -> None:
        self._follow = follow
        if not follow:
            self._loader.drop()  # the frame that is shown stays
            self._stage.show(busy="")

    def _now(self) -> fleet_pb2.Device | None:
        return self._frame.connection.devices.devices.get(self._device)

    async def _look(self) -> None:
        devices = self._frame.connection.devices
        if devices.version != self._seen:
            self._seen = devices.version
            await self._describe(self._now())
        latest = self._feed.latest
        newer = latest is not None and (
            self._record is None or latest.cursor != self._record.cursor
        )
        if latest is not None and newer and not self._loader.busy:
            if self._follow or self._record is None:
                await self._fetch(latest)
        elif latest is None and self._feed.begun:
            self._stage.show(hint=NO_FRAME)
        self._stage.show(busy=self._loader.look())
        await self._rate.look()
        await self._commands.look(self._now())

    async def _describe(self, device: fleet_pb2.Device | None) -> None:
        if device is None:
            known = self._frame.connection.devices.begun
            self._about.say("This device was never here, or is forgotten." if known else "")
            return
        names = await self._frame.bundle_names()
        labels = " ".join(f"{name}={value}" for name, value in sorted(device.labels.items()))
        self._about.say(f"{labels}  {device.client_version}".strip())
        status = fleet.status(device)
        live = device.online
        self._figures["Status"].say(status["text"], status["tone"])
        self._figures["State"].say(state_in_words(device) or formats.NONE)
        self._figures["Bits/pixel"].say(formats.bits_per_pixel(device.bits_per_pixel))
        self._figures["Frames/s"].say(formats.rate(device.frames_per_second if live else 0))
        self._figures["Rate"].say(f"{formats.size(device.bytes_per_second)}/s" if live else "–")
        self._figures["Queue"].say(str(device.queued_frames))
        self._figures["Rate set"].say(policy_in_words(device.rate_policy) or "its own")
        self._figures["Bundle"].say(fleet.bundle_name(device, names))
        self._commands.describe(device, names)
        self._rate.describe(device)
        if self._frame.user.commands:
            self._forget.attribute("disabled", live)
            self._forget.attribute("title", "only while it is away" if live else None)

    async def _fetch(self, record: results_pb2.ResultRecord) -> None:
        """Show the frame as soon as its pictures are there, with all that belongs to it."""
        text = f"Reconstructing frame {record.sequence}."
        if self._record is None:
            self._stage.show(hint=text)
            self._found.show(empty=text)
        states = await self._states(record)
        left, right = wanted(record).url, self._rate.path(record, states)
        paths = [left] if right in ("", left) else [left, right]
        show = partial(self._show, record, states, right)
        self._loader.want(Fetch(text, paths, show))

    async def _states(self, record: results_pb2.ResultRecord) -> Ladder | None:
        """What the frame takes at each state; None where that cannot be had."""
        key = results_pb2.FrameKey(
            device=record.device, session=record.session, sequence=record.sequence
        )
        try:
            bitstream, _ = await self._frame.connection.results.frame(key)
            bundles = await self._frame.connection.bundles()
        except FeatherwireError:
            return None
        short = bitstream.bundle_id.hex()
        its = [one for one in bundles if one.bundle_id.startswith(short)]
        typical = {row.state: row.typical_bits_per_pixel for one in its for row in one.states}
        return ladder(bitstream, typical, [name for one in its for name in one.pictures])

    def _show(
        self,
        record: results_pb2.ResultRecord,
        states: Ladder | None,
        right: str,
        problems: Mapping[str, str],
    ) -> None:
        """All at once, so that nothing on the page is of another frame."""
        self._record = record
        outcome = record.outcome
        analysis = outcome.analysis
        text = ", ".join(
            filter(None, (f"frame {record.sequence}", moment(record), unchanged(record)))
        )
        if outcome.WhichOneof("outcome") == "error":
            text += f" – failed: {outcome.error.message}"
        self._stage.picture(
            wanted(record).url,
            problems,
            (analysis.width, analysis.height),
            label=f"Reconstruction of frame {record.sequence}: {overlay.in_words(analysis)}",
            overlay=overlay.shapes(analysis),
            caption=text,
        )
        self._found.show(
            rows=overlay.findings(analysis, outcome.task_errors), empty=overlay.nothing(outcome)
        )
        self._commands.shown(record, states, self._now())
        self._rate.shown(record, states, right, problems)

    async def _forget_it(self) -> None:
        try:
            await self._frame.connection.fleet.forget(self._device)
        except FeatherwireError as error:
            self._forgot.say(complaint(error), "bad")
            return
        self._forgot.say(f"{self._device} is forgotten.", "good")
        self._forget.attribute("disabled", True)

"""One device: its latest frame, what was found, and the commands for it."""

from __future__ import annotations

from functools import partial
from typing import Any

from cloud_server.console.pages.device_panels import CommandPanel, RatePanel
from cloud_server.console.pages.parts import (
    LOOK_EVERY_S,
    Frame,
    Stage,
    Table,
    Tag,
    checkbox,
    figure,
)
from cloud_server.console.view import fleet, formats, overlay
from cloud_server.console.view.timeline import wanted
from shared.proto.featherwire.v1 import fleet_pb2, results_pb2

FIGURES = ("Status", "State", "Bits/pixel", "Frames/s", "Rate", "Queue", "Rate set", "Bundle")
LAYERS = (("boxes", "Boxes"), ("masks", "Masks"), ("landmarks", "Landmarks"))


def build(frame: Frame, name: str) -> None:
    """The page ``/device/NAME``."""
    DevicePage(frame, name[:128])


class DevicePage:
    """What is on the page, and what keeps it true."""

    def __init__(self, frame: Frame, device: str) -> None:
        self._frame = frame
        self._device = device
        self._feed = frame.connection.of_device(device)
        self._seen = (-1, -1)
        self._record: results_pb2.ResultRecord | None = None
        self._follow = True
        frame.join(self._feed)
        with Tag("div", classes="head"):
            Tag("h1", device)
            self._about = Tag("span", "", "muted")
        with Tag("div", classes="figures"):
            self._figures = {name: figure(name) for name in FIGURES}
        with Tag("div", classes="split" if frame.user.commands else ""):
            with Tag("div"):
                self._pictures()
                self._rate = RatePanel(frame, device, self._cut)
                with Tag("section", classes="panel flush", aria_label="Found in this frame"):
                    self._found = Table(
                        "Found in this frame", overlay.COLUMNS, "Nothing was found in this frame."
                    )
            with Tag("div"):
                self._commands = CommandPanel(frame, device, self._stage)
        if frame.user.commands:
            with Tag("section", classes="panel flush", aria_label="Commands to this device"):
                self._commands.show_table()
        self._coming: list[dict[str, Any]] = []
        self._stage.on("shown", lambda: self._found.show(rows=self._coming), args=[])
        frame.every(LOOK_EVERY_S, self._look)

    def _pictures(self) -> None:
        with Tag("section", classes="panel", aria_label="Latest frame"):
            with Tag("div", classes="row"):
                Tag("h2", "Latest frame")
                for layer, text in LAYERS:
                    checkbox(text, partial(self._toggle, layer), checked=True)
                checkbox("Follow", self._set_follow, checked=True)
            with Tag("div", classes="pair"):
                self._stage = Stage("No frame has come from this device yet.")
                self._cut = Stage("The same frame, cut to the state of the slider.")

    def _toggle(self, layer: str, shown: bool) -> None:
        self._stage.toggle(layer, shown)

    def _set_follow(self, follow: bool) -> None:
        self._follow = follow

    async def _look(self) -> None:
        devices = self._frame.connection.devices
        seen = (devices.version, self._feed.version)
        if seen != self._seen:
            self._seen = seen
            device = devices.devices.get(self._device)
            await self._describe(device)
            latest = self._feed.latest
            newer = latest is not None and (
                self._record is None or latest.cursor != self._record.cursor
            )
            if latest is not None and newer and (self._follow or self._record is None):
                await self._show(latest)
        await self._rate.look()
        await self._commands.look(devices.devices.get(self._device))

    async def _describe(self, device: fleet_pb2.Device | None) -> None:
        if device is None:
            known = self._frame.connection.devices.begun
            self._about.say("This device was never here." if known else "")
            return
        names = await self._frame.bundle_names()
        labels = " ".join(f"{name}={value}" for name, value in sorted(device.labels.items()))
        self._about.say(f"{labels}  {device.client_version}".strip())
        status = fleet.status(device)
        live = device.online
        self._figures["Status"].say(status["text"], status["tone"])
        self._figures["State"].say(str(device.state) if device.HasField("state") else formats.NONE)
        self._figures["Bits/pixel"].say(formats.bits_per_pixel(device.bits_per_pixel))
        self._figures["Frames/s"].say(formats.rate(device.frames_per_second if live else 0))
        self._figures["Rate"].say(f"{formats.size(device.bytes_per_second)}/s" if live else "–")
        self._figures["Queue"].say(str(device.queued_frames))
        self._figures["Rate set"].say(fleet.policy(device.rate_policy) or "its own")
        bundle = names.get(device.bundle_id, device.bundle_id[:8])
        self._figures["Bundle"].say(bundle or formats.NONE)
        self._commands.describe(device, names)

    async def _show(self, record: results_pb2.ResultRecord) -> None:
        self._record = record
        analysis = record.outcome.analysis
        failed = record.outcome.WhichOneof("outcome") == "error"
        at = formats.clock(record.captured_at)
        text = f"frame {record.sequence}, captured {at} UTC"
        if failed:
            text += f" – failed: {record.outcome.error.message}"
        self._stage.show(
            src=wanted(record).url,
            width=analysis.width or 4,
            height=analysis.height or 3,
            label=f"Reconstruction of frame {record.sequence}: {overlay.in_words(analysis)}",
            overlay=overlay.shapes(analysis),
            caption=text,
        )
        self._coming = overlay.findings(analysis)
        self._commands.shown(record)
        await self._rate.shown(record)

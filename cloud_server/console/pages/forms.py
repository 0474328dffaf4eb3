"""What may be commanded, of one device or of several at once: rate, tasks, bundle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from cloud_server.console.pages.parts import (
    Input,
    Tag,
    button,
    checkbox,
    field,
    select,
    set_options,
)
from cloud_server.console.view import commands
from cloud_server.tasks import task_names
from shared.proto.featherwire.v1 import fleet_pb2

Send = Callable[[fleet_pb2.Command], Awaitable[object]]
"""Gives a command to whoever it is for."""

MAX_FRAMES_PER_SECOND = 1000.0


class StateForm:
    """Always one state, typed; on a device's own page the slider does it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._state = ""
        with Tag("div", classes="row"):
            field("State, 0 the finest", "number", self._type, min="0", max="255", step="1")
            button("Set state", self._set)
            button("Its own rate", self._give_back)

    def _type(self, text: str) -> None:
        self._state = text

    async def _set(self) -> None:
        if self._state.isdigit():
            await self._send(commands.set_state(min(int(self._state), 255)))

    async def _give_back(self) -> None:
        await self._send(commands.own_rate())


class FrameRateForm:
    """Frames a second at most; nothing typed leaves it to the device."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._value: float | None = None
        self._touched = False
        with Tag("div", classes="row"):
            self._input: Input = field(
                "Frames/s at most", "number", self._type, min="0", step="0.1", placeholder="any"
            )
            button("Set frames/s", self._set)

    def describe(self, frames_per_second: float) -> None:
        """What is in force, unless somebody is about to change it; 0: nothing."""
        if not self._touched:
            self._value = frames_per_second or None
            self._input.show(value=f"{frames_per_second:g}" if frames_per_second else "")

    def _type(self, text: str) -> None:
        self._touched = True
        try:
            value = float(text) if text else 0.0
        except ValueError:
            return
        self._value = min(value, MAX_FRAMES_PER_SECOND) if value > 0 else None

    async def _set(self) -> None:
        await self._send(commands.set_frame_rate(self._value))
        self._touched = False


class TaskForm:
    """Which tasks are asked for."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._boxes: dict[str, Tag] = {}
        self._tasks: set[str] | None = None
        with Tag("div", classes="row"):
            for name in task_names():
                self._boxes[name] = checkbox(name, partial(self._choose, name))
        with Tag("div", classes="row"):
            button("Set tasks", self._set)

    @property
    def known(self) -> bool:
        """Whether it shows what is in force, or what somebody has chosen."""
        return self._tasks is not None

    def tick(self, tasks: set[str]) -> None:
        """Show these."""
        self._tasks = tasks
        for name, box in self._boxes.items():
            box.attribute("checked", name in tasks)

    def _choose(self, task: str, chosen: bool) -> None:
        tasks = self._tasks or set()
        self._tasks = tasks | {task} if chosen else tasks - {task}

    async def _set(self) -> None:
        await self._send(commands.set_tasks(sorted(self._tasks or ())))


class BundleForm:
    """Which bundle is used, of those that the server takes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._bundle = ""
        self._offered: list[tuple[str, str]] = []
        with Tag("div", classes="row"):
            self._bundles = select("Bundle", [], self._choose)
            button("Use bundle", self._use)

    def describe(self, names: Mapping[str, str], chosen: str = "") -> None:
        """names: of the bundles, by id. chosen: the one that is in use."""
        offered = list(names.items())
        if offered != self._offered:
            self._offered = offered
            self._bundle = chosen if chosen in names else next(iter(names), "")
            set_options(self._bundles, offered, self._bundle)

    def _choose(self, bundle_id: str) -> None:
        self._bundle = bundle_id

    async def _use(self) -> None:
        if self._bundle:
            await self._send(commands.use_bundle(self._bundle))

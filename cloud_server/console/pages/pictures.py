"""Pictures on a page, each together with all that belongs to its frame.

A reconstruction takes its time. Whoever wants to show a frame asks the loader for its pictures;
when the browser has them, everything is changed at once: picture, findings, buttons. So what is on
the page is always of one frame, and the one before stays until then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nicegui.events import GenericEventArguments

from cloud_server.console.pages.parts import Parts

PATIENCE_S = 60.0
"""After so long the browser is asked again: its answer may have been lost with its connection."""

SLOW_S = 0.7
"""A fetch that takes longer is told on the page."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Pictures by their paths, and what is done with them: ``show`` is called once, with why those
    that cannot be had cannot, by path. ``text``: what people are told meanwhile."""

    text: str
    paths: Sequence[str]
    show: Callable[[Mapping[str, str]], None]


class Loader(Parts, component="../static/loader.js"):
    """Has the browser fetch pictures before they are shown; one frame at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._props.update(ask=0, paths=[], ahead=[])
        self._ask = 0
        self._current: Fetch | None = None
        self._next: Fetch | None = None
        self._since = 0.0
        self.on("came", self._came)

    @property
    def busy(self) -> bool:
        """Whether something is being fetched."""
        return self._current is not None

    def want(self, fetch: Fetch, *, at_once: bool = False) -> None:
        """Fetch this next. at_once: and forget what is being fetched now."""
        if self._current is None or at_once:
            self._begin(fetch)
        else:
            self._next = fetch

    def drop(self) -> None:
        """Nothing is wanted any more."""
        self._current = self._next = None
        self._ask += 1

    def look(self) -> str:
        """Called now and again; what people are to be told while they wait, else nothing."""
        if self._current is None:
            return ""
        waited_s = time.monotonic() - self._since
        if waited_s > PATIENCE_S:
            self._begin(self._current)
        return self._current.text if waited_s > SLOW_S else ""

    def _begin(self, fetch: Fetch) -> None:
        self._ask += 1
        self._current, self._next = fetch, None
        self._since = time.monotonic()
        self.show(ask=self._ask, paths=list(fetch.paths))

    def _came(self, event: GenericEventArguments) -> None:
        done = self._current
        if done is None or event.args["ask"] != self._ask:
            return
        following, self._current, self._next = self._next, None, None
        done.show({str(path): str(why) for path, why in event.args["problems"].items()})
        if following is not None and self._current is None:
            self._begin(following)


class Stage(Parts, component="../static/stage.js"):
    """A picture with overlays; see stage.js for its properties. ``save``: it can be downloaded."""

    def __init__(self, hint: str, *, save: bool = False) -> None:
        super().__init__()
        self._props.update(
            src="",
            width=4,
            height=3,
            label="",
            caption="",
            hint=hint,
            problem="",
            busy="",
            save=save,
            overlay={},
            layers={"boxes": True, "masks": True, "landmarks": True},
            regions=[],
            drawing=False,
        )

    def toggle(self, layer: str, shown: bool) -> None:
        """Show a layer of the overlay, or hide it."""
        self.show(layers={**self._props["layers"], layer: shown})

    def picture(
        self, path: str, problems: Mapping[str, str], size: tuple[int, int], **more: object
    ) -> None:
        """Show a picture that the loader has, or why there is none. size: width, height, in pixels;
        (0, 0) where it is not known."""
        problem = problems.get(path, "")
        width, height = size
        self.show(
            src="" if problem else path,
            problem=problem,
            busy="",
            width=width or 4,
            height=height or 3,
            **more,
        )

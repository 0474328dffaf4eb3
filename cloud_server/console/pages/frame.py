"""What every page has: the bar on top, whether the server is there, and its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nicegui import ui

from cloud_server.console.pages.parts import Tag
from cloud_server.console.sessions import User
from cloud_server.console.upstream import NOT_LET_IN, Connection
from shared.errors import FeatherwireError

if TYPE_CHECKING:
    from cloud_server.console.app import Console
    from cloud_server.console.feeds import Feed

PAGES = (("/", "Fleet"), ("/results", "Results"), ("/rates", "Rates"), ("/commands", "Commands"))
HEAD = '<script src="/static/theme.js"></script><link rel="stylesheet" href="/static/console.css">'
LOOK_EVERY_S = 0.5


class Frame:
    """A page that is being shown to a user; what it joins it leaves when the browser goes."""

    def __init__(self, console: Console, user: User) -> None:
        self.console = console
        self.user = user
        self._client = ui.context.client

    @property
    def connection(self) -> Connection:
        """The user's connection to the server, as long as the page is there."""
        return self.console.upstream.of(self.user)

    def join(self, feed: Feed) -> None:
        """Follow a feed until the browser has gone."""
        feed.join()
        self._client.on_delete(feed.leave)

    def every(self, seconds: float, work: Callable[[], Any]) -> None:
        """Do something again and again until the browser has gone, the first time at once."""
        ui.timer(seconds, work)

    async def bundle_names(self) -> dict[str, str]:
        """Names by id; empty while the server is away."""
        try:
            return {one.bundle_id: one.name for one in await self.connection.bundles()}
        except FeatherwireError:
            return {}


@contextmanager
def framed(console: Console, user: User, current: str) -> Iterator[Frame]:
    """The page around what is made inside; ``current`` is its path in the bar."""
    ui.add_head_html(HEAD)
    frame = Frame(console, user)
    feed = frame.connection.devices
    frame.join(feed)
    with ui.header(fixed=False, wrap=False).classes("bar"):
        Tag("a", "Skip to content", "skip", href="#content")
        Tag("a", "Featherwire", "brand", href="/")
        with Tag("nav", aria_label="Pages"):
            for path, name in PAGES:
                link = Tag("a", name, href=path)
                if path == current:
                    link._props["aria-current"] = "page"
        with Tag("div", classes="bar-end"):
            state = Tag("span", "connecting", "link-state small", role="status")
            theme = Tag("button", "◐", "icon", type="button", aria_label="Dark or light")
            theme._props["title"] = "Dark or light"
            theme.on("click", js_handler="() => window.featherwireTheme()")
            if user.token is not None:
                with Tag("form", method="post", action="/logout"):
                    Tag("button", "Log out", type="submit", title=f"role {user.role.value}")
    banner = Tag("div", "", "banner", role="alert")

    def look() -> None:
        problem = feed.problem
        if problem is None:
            state.say(
                "connected" if feed.begun else "connecting", "good" if feed.begun else "muted"
            )
            banner.say("")
            return
        state.say("server away", "bad")
        if problem.reason in NOT_LET_IN:
            banner.say("The server no longer takes this token. Log out, and in with another one.")
        else:
            banner.say(
                f"The server does not answer ({problem.message[:160]}). What is shown may be old; "
                "the console goes on by itself when it is back."
            )

    frame.every(LOOK_EVERY_S, look)
    with Tag("div", classes="page", id="content"):
        yield frame

"""What pages are made of: the frame around each, plain HTML elements, tables, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import Request, Response
from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from cloud_server.console.context import Console, root_of
from cloud_server.console.sessions import User
from cloud_server.console.upstream import NOT_LET_IN, Connection, Feed
from shared.errors import FeatherwireError

VALUE = "(event) => emit(event.target.value)"
CHECKED = "(event) => emit(event.target.checked)"


def root() -> str:
    """The path under which the page's browser sees the console; see ``console.gateway``."""
    return root_of(ui.context.client.request)


def _placed(name: str, value: Any) -> Any:
    """An attribute as the browser must get it: paths of ours lie behind the root."""
    ours = name in {"href", "action", "src"} and isinstance(value, str) and value.startswith("/")
    return root() + value if ours else value


class Tag(TextElement):
    """An HTML element with a text; attributes by name, ``aria_label`` for ``aria-label``. Paths
    are the console's own: what is in front of them is seen to."""

    def __init__(self, tag: str, text: str = "", classes: str = "", **attributes: Any) -> None:
        super().__init__(tag=tag, text=text)
        self.classes(classes)
        for name, value in attributes.items():
            self._props[name.rstrip("_").replace("_", "-")] = _placed(name, value)

    def say(self, text: str, tone: str = "") -> None:
        """Show another text; nothing is sent when it is the same."""
        if text != self.text:
            self.set_text(text)
        wanted = f"tone-{tone}" if tone else ""
        had = [name for name in self._classes if name.startswith("tone-")]
        if had != ([wanted] if wanted else []):
            self.classes(remove=" ".join(had), add=wanted)

    def attribute(self, name: str, value: Any) -> None:
        """Set an attribute, None or False takes it away; nothing is sent when it is the same."""
        if value is None or value is False:
            if name in self._props:
                del self._props[name]
                self.update()
        elif self._props.get(name) != (placed := _placed(name, value)):
            self._props[name] = placed
            self.update()


class Parts(Element):
    """An element of ours in the browser, whose properties are sent when they change.

    Its property ``root`` goes in front of the paths among the others.
    """

    def __init__(self) -> None:
        super().__init__()
        self._props["root"] = root()

    def show(self, **properties: Any) -> None:
        """Change properties."""
        changed = {n: v for n, v in properties.items() if self._props.get(n) != v}
        if changed:
            self._props.update(changed)
            self.update()


class Table(Parts, component="../static/table.js"):
    """A table; ``empty`` is shown in its place when there are no rows."""

    def __init__(
        self,
        caption: str,
        columns: Sequence[Mapping[str, Any]],
        empty: str,
        *,
        on_pick: Callable[[str], Any] | None = None,
        on_tick: Callable[[str, bool], Any] | None = None,
        on_act: Callable[[str], Any] | None = None,
    ) -> None:
        """on_pick, on_tick, on_act: called with the key of a row that was picked, ticked (or not
        any more), or whose button was pressed."""
        super().__init__()
        self._props.update(caption=caption, columns=list(columns), rows=[], empty=empty)
        self._props["acts"] = on_act is not None
        if on_pick is not None:
            self.on("pick", lambda event: on_pick(str(event.args)))
        if on_tick is not None:
            self.on("tick", lambda event: on_tick(event.args["key"], bool(event.args["ticked"])))
        if on_act is not None:
            self.on("act", lambda event: on_act(str(event.args)))


class Input(Parts, component="../static/input.js"):
    """An input.

    on_moved is called for every change, a few times a second; on_settled when its user is done:
    with a slider when it is let go, or at every step by keyboard.
    """

    def __init__(
        self,
        kind: str,
        *,
        on_moved: Callable[[str], Any] | None = None,
        on_settled: Callable[[str], Any] | None = None,
        value: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__()
        self._props.update(type=kind, value=value, pause=150)
        for name, given in attributes.items():
            self._props[name.replace("_", "-")] = given
        if on_moved is not None:
            self.on("moved", lambda event: on_moved(str(event.args)))
        if on_settled is not None:
            self.on("settled", lambda event: on_settled(str(event.args)))


def button(text: str, on_click: Callable[[], Any], *, main: bool = False, **more: Any) -> Tag:
    """A button."""
    made = Tag("button", text, "main" if main else "", type="button", **more)
    made.on("click", lambda: on_click(), args=[])
    return made


def checkbox(text: str, on_change: Callable[[bool], Any], *, checked: bool = False) -> Tag:
    """A box with its label; returns the box."""
    with Tag("label", classes="check"):
        box = Tag("input", type="checkbox")
        if checked:
            box._props["checked"] = True
        Tag("span", text)
    box.on("change", lambda event: on_change(bool(event.args)), js_handler=CHECKED)
    return box


def select(
    label: str, options: Iterable[tuple[str, str]], on_change: Callable[[str], Any], **more: Any
) -> Tag:
    """A list of (value, text) with its label; returns the list, for :func:`set_options`."""
    with Tag("label", label, "field"):
        chooser = Tag("select", **more)
    set_options(chooser, options)
    chooser.on("change", lambda event: on_change(str(event.args)), js_handler=VALUE)
    return chooser


def set_options(chooser: Tag, options: Iterable[tuple[str, str]], chosen: str = "") -> None:
    """Other options for a list."""
    chooser.clear()
    with chooser:
        for value, text in options:
            made = Tag("option", text, value=value)
            if value == chosen:
                made._props["selected"] = True


def field(label: str, kind: str, on_change: Callable[[str], Any], **more: Any) -> Input:
    """An input with its label; returns the input."""
    with Tag("label", label, "field"):
        return Input(kind, on_settled=on_change, **more)


def figure(name: str) -> Tag:
    """A number with its name; returns the number."""
    with Tag("div", classes="figure"):
        Tag("div", name, "figure-name")
        return Tag("div", "–", "figure-value")


def notice() -> Tag:
    """A line for what has become of a command; screen readers read it out."""
    return Tag("p", "", "notice", role="status")


def complaint(error: FeatherwireError) -> str:
    """An error for people."""
    return error.message[:1].upper() + error.message[1:]


PAGES = (("/", "Fleet"), ("/results", "Results"), ("/rates", "Rates"), ("/commands", "Commands"))
HEAD = (
    '<script src="{root}/static/theme.js"></script>'
    '<link rel="stylesheet" href="{root}/static/console.css">'
)
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
            return await self.connection.bundle_names()
        except FeatherwireError:
            return {}


def add_page(console: Console, path: str, title: str, build: Callable[..., None]) -> None:
    """Give NiceGUI a page for users who are logged in; others are sent to the log-in.

    build: called with the page's :class:`Frame` and the parameters of its path, by name.
    """

    @ui.page(path, title=f"{title} · Featherwire")
    async def show(request: Request) -> Response | None:
        user = await console.user(request)
        if user is None:
            return console.to_login(request)
        with _framed(console, user, path) as frame:
            build(frame, **request.path_params)
        return None


@contextmanager
def _framed(console: Console, user: User, current: str) -> Iterator[Frame]:
    """The page around what is made inside; ``current`` is its path in the bar."""
    ui.add_head_html(HEAD.format(root=root()))
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

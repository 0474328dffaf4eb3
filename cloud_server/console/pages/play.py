"""A device's frames, played back from the log."""

from __future__ import annotations

from urllib.parse import quote

from nicegui import ui

from cloud_server.console.pages.parts import Frame, Parts, Tag

KEYS = (
    ("Space", "play, pause"),
    ("← →", "a frame"),
    ("Shift ← →", "ten seconds"),
    ("Home, End", "the oldest, the newest frame"),
)


def build(frame: Frame, name: str) -> None:
    """The page ``/play/NAME``; ``?at=CURSOR`` begins with that record."""
    device = name[:128]
    at = ui.context.client.request.query_params.get("at", "")
    with Tag("div", classes="head"):
        Tag("h1", "Playback")
        Tag("a", device, href=f"/device/{quote(device)}")
    with Tag("section", classes="panel", aria_label="Player"):
        Playback(device, int(at) if at.isascii() and at.isdigit() and len(at) < 19 else 0)
    with Tag("p", classes="muted small"):
        for keys, what in KEYS:
            Tag("kbd", keys)
            Tag("span", what, "key-means")


class Playback(
    Parts,
    component="../static/player/player.js",
    esm={"featherwire-player": "../static/player"},
):
    """The player. It runs in the browser and asks ``console.playback`` for all that it shows."""

    def __init__(self, device: str, at: int) -> None:
        """at: the cursor of the record to begin with; 0 is a minute before the newest."""
        super().__init__()
        self._props.update(device=device, at=at)

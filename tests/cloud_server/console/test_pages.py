"""Every page: without serious findings of axe, on a phone, in dark and light, and pictured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axe_core_python
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cloud_server.console.view import commands
from cloud_server.fleet.client import FleetClient
from shared.proto.featherwire.v1 import fleet_pb2
from tests.support.console import Running, set_state, streaming

AXE = Path(axe_core_python.__file__).with_name("axe.min.js").read_text()
PAGES = {
    "fleet": ("/", "table a"),
    "device": ("/device/cam-1", "img[alt^='Reconstruction']"),
    "play": ("/play/cam-1", ".player-caption:not(:empty)"),
    "results": ("/results", "table button"),
    "rates": ("/rates", ".chart svg text"),
    "commands": ("/commands", ".table"),
}
MAX_PICTURE_BYTES = 150_000


@pytest.fixture(scope="module")
def live(stored: Running, photos: dict[str, NDArray[np.uint8]]) -> Iterator[Running]:
    """cam-1 streams while its pages are looked at; it has done what it was told."""
    tasks = commands.set_tasks(("detection", "segmentation", "landmarks"))
    with FleetClient(stored.server, stored.access) as client:
        client.send(fleet_pb2.DeviceSelector(devices=["cam-1"]), tasks)
    with streaming(stored, photos, pause_s=3.0, names=("coffee", "astronaut", "astronaut")):
        yield stored


def seen(visit: Callable[..., Any], name: str, **how: Any) -> Any:
    """The page, once it shows what it is for."""
    path, what = PAGES[name]
    page = visit(path, **how)
    page.locator(what).first.wait_for()
    page.wait_for_timeout(1500)
    return page


def pictured(visit: Callable[..., Any], live: Running, name: str, **how: Any) -> Any:
    """The page as a person would leave it open."""
    if name == "play":
        page = seen(visit, name, **how)
        page.get_by_label("Mark frames with").fill("person")
        page.keyboard.press("Tab")
        page.locator(".player-mark").first.wait_for()
        page.get_by_role("slider", name="Time in the log").press("End")
        page.locator(".stage-box").first.wait_for()
        return page
    if name != "device":
        return seen(visit, name, **how)
    set_state(live, 2)
    page = seen(visit, name, **how)
    compare(page)
    return page


def compare(page: Any) -> None:
    """Look at a frame with a face, as it came and with fewer bits."""
    page.get_by_role("region", name="Found in this frame").get_by_text("face").wait_for()
    page.get_by_label("Follow").uncheck()
    page.get_by_role("slider", name="State, from the coarsest").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.get_by_text("applied").first.wait_for()
    page.wait_for_timeout(1500)


def keep(page: Any, target: Path) -> None:
    """A picture of the page, small."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".draft.png")
    page.screenshot(path=draft, full_page=True)
    with Image.open(draft) as picture:
        for quality in (85, 70, 50):
            picture.convert("RGB").save(target, "WEBP", quality=quality, method=6)
            if target.stat().st_size <= MAX_PICTURE_BYTES:
                break
    draft.unlink()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_has_no_serious_findings(
    visit: Callable[..., Any], live: Running, pictures_folder: Path, name: str, scheme: str
) -> None:
    page = pictured(visit, live, name, scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    serious = findings(page)
    assert not serious, "\n".join(serious)
    keep(page, pictures_folder / f"{name}-{scheme}.webp")
    assert (pictures_folder / f"{name}-{scheme}.webp").stat().st_size <= MAX_PICTURE_BYTES


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_and_the_log_in(visit: Callable[..., Any], scheme: str) -> None:
    page = visit("/", role=None, scheme=scheme)
    page.get_by_label("Token").wait_for()
    assert not findings(page)


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_scrolls_down_alone(
    visit: Callable[..., Any], live: Running, pictures_folder: Path, name: str
) -> None:
    page = pictured(visit, live, name, width=360, height=740, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert not findings(page)
    keep(page, pictures_folder / f"{name}-phone.webp")


def test_dark_is_chosen_and_stays(visit: Callable[..., Any], running: Running) -> None:
    page = visit("/", scheme="light")
    page.get_by_role("button", name="Dark or light").click()
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    page.goto(running.url + "/rates")
    assert page.evaluate(theme) == "dark"


def test_the_fleet_is_filtered_by_label(visit: Callable[..., Any], stored: Running) -> None:
    page = visit("/")
    row = page.locator("tr", has_text="cam-1")
    row.wait_for()
    assert "site=north" in row.inner_text()
    page.get_by_label("Filter by name or label").fill("site=west")
    page.get_by_text("No device fits this filter.").wait_for()
    page.get_by_label("Filter by name or label").fill("site=north cam")
    row.wait_for()


def test_every_part_is_reached_by_keyboard(visit: Callable[..., Any], stored: Running) -> None:
    page = seen(visit, "device")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "[document.activeElement.tagName, document.activeElement.ariaLabel || "
                "document.activeElement.innerText].join(' ')"
            )
        )
    text = "\n".join(reached)
    for part in ("Fleet", "State, from the coarsest", "Set region", "Set tasks", "Use bundle"):
        assert part in text


def findings(page: Any) -> list[str]:
    """What axe finds that is serious or worse."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]

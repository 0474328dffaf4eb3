"""Streams are played back from the log: in order, with scrubbing, each frame with its picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from codec.base import small_bundle
from edge_client import EdgeSession
from edge_client.session.frames import CapturedPhoto, Origin
from edge_client.session.groups import KeyEvery
from tests.support.console import console_process
from tests.support.predicting import moving
from tests.support.servers import FixedTask, ServerThread, settings_of

FRAMES = 90
EVERY_S = 0.1
STILL = range(40, 50)
BEGAN_S = 1_777_600_000.0
PHOTOS = moving(FRAMES, still=STILL)


@dataclass(frozen=True)
class Played:
    """Where the console is, and the sequences that a device has sent."""

    url: str
    server: ServerThread


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """A stream of predicted frames, in groups of thirty, that was captured ten times a second."""
    folder = tmp_path_factory.mktemp("played")
    bundle = small_bundle("null", folder / "bundle")
    settings = settings_of(bundle, folder / "data", bundles=("detect",), tasks=("detection",))
    server = ServerThread(settings, {"look": lambda: FixedTask("look")})
    try:
        sent = send(server, "cam-1", bundle.origin, PHOTOS, "look")
        assert sent.groups.predicted_frames > FRAMES / 2
        with console_process(server.address, folder / "console") as url:
            yield Played(url, server)
    finally:
        server.stop()
        server.join()


def send(
    server: ServerThread, device: str, bundle: Any, photos: Sequence[Any], task: str
) -> EdgeSession:
    """The photos as a stream, each with the time that a camera would have taken it at."""
    captured = [
        CapturedPhoto(photo, Origin(str(number), BEGAN_S + EVERY_S * number))
        for number, photo in enumerate(photos)
    ]
    with EdgeSession(
        server.address, device=device, bundle=bundle, key_every=KeyEvery(30)
    ) as session:
        results = list(session.stream(captured, tasks=[task]))
        assert [one.error for one in results] == [None] * len(photos)
    return session


@pytest.fixture
def open_player(browser: Any, played: Played) -> Iterator[Callable[..., Any]]:
    """``open_player(device)``: its player, with what every frame that it shows looks like."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def opened(device: str = "cam-1", **how: Any) -> Any:
        context = browser.new_context(**how)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda one: complaints.extend([one.text] * (one.type == "error")))
        page.goto(f"{played.url}/play/{device}")
        page.locator(".player-caption", has_text="frame").wait_for()
        page.evaluate(WATCH)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints, complaints


WATCH = """() => {
    window.seen = [];
    const caption = document.querySelector('.player-caption');
    new MutationObserver(() => {
        window.seen.push([Number(/frame (\\d+)/.exec(caption.innerText)[1]), performance.now()]);
    }).observe(caption, {subtree: true, childList: true, characterData: true});
}"""


TIMES = """() => performance.getEntriesByType('resource')
    .filter((one) => one.name.includes('/picture/')).map((one) => one.duration)"""


def found(page: Any) -> None:
    """Wait until the place is shown that was last asked for."""
    page.locator(".player[aria-busy=false]").wait_for()


def frame_shown(page: Any, number: int) -> None:
    """Wait until that frame is shown."""
    page.locator(".player-caption", has_text=f"frame {number},").wait_for()


def test_a_stream_is_played_in_order_and_in_its_own_time(open_player: Callable[..., Any]) -> None:
    page = open_player()
    page.keyboard.press("Home")
    frame_shown(page, 1)
    page.get_by_label("Speed").select_option("4")
    page.evaluate("window.seen = []")
    began = page.evaluate("performance.now()")
    page.get_by_role("button", name="Play").click()
    page.get_by_text("This is the end of the log.").wait_for()
    seen = page.evaluate("window.seen")
    numbers = [number for number, _ in seen]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == FRAMES
    # As many as pictures come, which two at a time are asked for; on a quick machine far more.
    took_ms = np.median(page.evaluate(TIMES))
    assert len(numbers) > min(5, (seen[-1][1] - began) / took_ms)
    # Nine seconds at four times their speed.
    assert seen[-1][1] - began > 1000 * (FRAMES - 1) * EVERY_S / 4 - 300


def test_scrubbing_shows_the_frame_of_that_place(open_player: Callable[..., Any]) -> None:
    page = open_player()
    page.keyboard.press("Home")
    frame_shown(page, 1)
    page.keyboard.press("End")
    frame_shown(page, FRAMES)
    under_way: set[Any] = set()
    most = [0]

    def asked(request: Any) -> None:
        if "/picture/" in request.url:
            under_way.add(request)
            most.append(len(under_way))

    page.on("request", asked)
    page.on("requestfinished", lambda request: under_way.discard(request))
    page.on("requestfailed", lambda request: under_way.discard(request))
    scrub = page.get_by_role("slider", name="Time in the log")
    for place in (9000, 2000, 7000, 5000):
        scrub.evaluate(
            "(one, at) => { one.value = at; one.dispatchEvent(new Event('input')); }", place
        )
    scrub.evaluate("one => one.dispatchEvent(new Event('change'))")
    page.wait_for_function("window.seen.length && Math.abs(window.seen.at(-1)[0] - 45) < 40")
    found(page)
    assert max(most) <= 3
    number = page.evaluate("window.seen.at(-1)[0]")
    assert 1 < number < FRAMES
    assert is_picture_of(page, number)
    for step in (1, 2, 3):  # and each of the next, upon the one before it
        page.keyboard.press("ArrowRight")
        frame_shown(page, number + step)
        assert is_picture_of(page, number + step)
    page.keyboard.press("ArrowLeft")
    frame_shown(page, number + 2)
    assert is_picture_of(page, number + 2)


def is_picture_of(page: Any, number: int) -> bool:
    """Whether the canvas has that photo, but for what JPEG and WebP make of it."""
    data = page.evaluate(
        """() => {
            const one = document.querySelector('.player canvas');
            return [...one.getContext('2d').getImageData(0, 0, one.width, one.height).data];
        }"""
    )
    shown = np.array(data, np.int16).reshape(*PHOTOS[0].shape[:2], 4)[..., :3]
    far = [np.abs(shown - photo).mean() for photo in PHOTOS]
    return bool(far[number - 1] == min(far))


def test_it_pauses_by_keyboard_and_says_what_stands_still(
    open_player: Callable[..., Any], played: Played
) -> None:
    page = open_player()
    page.keyboard.press("Home")
    frame_shown(page, 1)
    page.keyboard.press("Space")
    page.get_by_role("button", name="Pause").wait_for()
    page.wait_for_function("window.seen.length && window.seen.at(-1)[0] > 4")
    page.keyboard.press("Space")
    page.get_by_role("button", name="Play").wait_for()
    count = page.evaluate("window.seen.length")
    page.wait_for_timeout(400)
    assert page.evaluate("window.seen.length") == count
    still = STILL[-1]
    page.goto(page.url.split("?")[0])
    page.keyboard.press("Home")
    frame_shown(page, 1)
    found(page)
    for _ in range(still - 1):
        page.keyboard.press("ArrowRight")
    frame_shown(page, still)
    assert "nothing changed since frame" in page.locator(".player-caption").inner_text()
    assert is_picture_of(page, still)
    page.goto(f"{played.url}/results")
    number = page.locator("td:nth-child(3)", has_text=re.compile(f"^{still}$"))
    page.locator("[aria-label=Results] tbody tr", has=number).get_by_role("button").first.click()
    caption = page.locator("figcaption", has_text=f"frame {still},")
    assert "nothing changed since frame" in caption.inner_text()


def test_boxes_and_marks_are_drawn(open_player: Callable[..., Any]) -> None:
    page = open_player()
    box = page.locator(".stage-box")
    box.first.wait_for()
    assert box.first.text_content() == "thing 0.50"
    page.get_by_label("Boxes").uncheck()
    box.first.wait_for(state="detached")
    page.locator(".player-cover").first.wait_for()
    page.get_by_label("Mark frames with").fill("thing")
    page.get_by_label("Mark frames with").press("Tab")
    page.locator(".player-mark").first.wait_for()
    page.get_by_label("Mark frames with").fill("unicorn")
    page.get_by_label("Mark frames with").press("Tab")
    page.get_by_text("No frame has unicorn in it.").wait_for()
    page.locator(".player-mark").first.wait_for(state="detached")


def test_boxes_of_what_has_no_picture_are_drawn_on_a_plain_ground(
    open_player: Callable[..., Any], played: Played, photos: dict[str, NDArray[np.uint8]]
) -> None:
    clip = [np.roll(photos["astronaut"], 4 * number, 1) for number in range(8)]
    send(played.server, "cam-2", "detect", clip, "detection")
    page = open_player("cam-2")
    page.keyboard.press("Home")
    frame_shown(page, 1)
    page.get_by_role("img", name="Frame 1: person").wait_for()
    page.locator(".stage-box", has_text="person").wait_for()
    page.locator(".player .stage-note").wait_for(state="detached")
    page.keyboard.press("Space")
    page.get_by_text("This is the end of the log.").wait_for()
    frame_shown(page, len(clip))
    page.locator(".stage-box", has_text="person").wait_for()
    assert page.evaluate(
        "!document.querySelector('.player canvas').getContext('2d')"
        ".getImageData(0, 0, 9, 9).data.some(Boolean)"
    )


def test_what_is_asked_of_the_console_is_checked(played: Played) -> None:
    with httpx.Client(base_url=played.url) as client:
        found = client.get("/playback/cam-1/frames?count=5").json()
        assert [one["sequence"] for one in found["frames"]] == [1, 2, 3, 4, 5]
        assert not found["end"]
        for bad in ("after=-1", "before=x", "since=1e400", "since=nan", "count=no"):
            assert client.get(f"/playback/cam-1/frames?{bad}").status_code == 422
        assert client.get("/playback/cam-1/marks?first=1").status_code == 422
        assert client.get("/playback/nobody/span").json() == {"first": 0.0, "last": 0.0}
        assert client.get("/masks/99999999").status_code == 404

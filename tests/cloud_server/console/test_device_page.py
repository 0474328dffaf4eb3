"""An operator looks at a device that streams, and tells it what to do."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_server.fleet.client import FleetClient
from shared.proto.featherwire.v1 import fleet_pb2
from tests.support.console import Running, set_state, streaming

Photos = dict[str, NDArray[np.uint8]]


def newest_command(running: Running, kind: str) -> fleet_pb2.IssuedCommand:
    """The last of its kind."""
    with FleetClient(running.server, running.access) as client:
        found = [one for one in client.commands() if one.command.WhichOneof("command") == kind]
    return found[-1]


def wait_for_frames(page: Any, sizes: Callable[[], list[int]], count: int) -> None:
    """Until so many results have come back to the device."""
    for _ in range(600):
        if len(sizes()) >= count:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{len(sizes())} results of {count}")


def test_the_slider_shows_fewer_bytes_at_once_and_makes_the_next_frames_smaller(
    visit: Callable[..., Any], running: Running, stored: Running, photos: Photos
) -> None:
    set_state(stored, 2)
    with streaming(running, photos) as sizes:
        page = visit("/device/cam-1")
        wait_for_frames(page, sizes, 4)
        page.get_by_role("img", name="Reconstruction of frame").wait_for()
        page.get_by_label("Follow").uncheck()
        slider = page.get_by_role("slider", name="State, from the coarsest")
        said = page.locator(".rate-line .strong")
        assert said.inner_text().startswith("State 2,")
        before = slider.get_attribute("aria-valuetext")

        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
        said.get_by_text("State 7,").wait_for()
        assert slider.get_attribute("aria-valuetext") != before
        assert "fewer bytes than now" in page.locator(".rate-line").inner_text()
        cut = page.get_by_role("img", name="The same frame at state 7")
        cut.wait_for()
        assert cut.evaluate("image => image.complete && image.naturalWidth > 0")

        page.get_by_text("State 7: applied").wait_for()
        asked = newest_command(running, "set_rate")
        assert asked.command.set_rate.policy.state == 7
        assert not asked.reply.HasField("error")
        had = len(sizes())
        wait_for_frames(page, sizes, had + 5)
        # One may have been under way when a command came.
        assert median(sizes()[had + 1 :]) < 0.5 * median(sizes()[1:4])
        page.get_by_text("state 7", exact=True).first.wait_for()


def test_a_region_is_drawn_on_the_picture(
    visit: Callable[..., Any], running: Running, photos: Photos
) -> None:
    with streaming(running, photos) as sizes:
        page = visit("/device/cam-1")
        wait_for_frames(page, sizes, 1)
        picture = page.get_by_role("img", name="Reconstruction of frame")
        picture.wait_for()
        page.get_by_role("button", name="Draw on the picture").click()
        page.locator(".stage-drawing").wait_for()
        box = picture.bounding_box()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.7 * box["height"], steps=4)
        page.mouse.up()
        # The fields say what was drawn, and take it from the keyboard as well.
        left = page.get_by_label("Left, %")
        page.wait_for_function("field => field.value === '20'", arg=left.element_handle())
        page.get_by_label("Bottom, %").fill("65")
        page.get_by_label("Bottom, %").press("Tab")
        page.get_by_role("button", name="Set region").click()
        page.locator("td", has_text="regions: 1").first.wait_for()
        region = newest_command(running, "set_regions").command.set_regions.regions[0]
        corners = (region.box.x_min, region.box.y_min, region.box.x_max, region.box.y_max)
        assert np.allclose(corners, (0.2, 0.3, 0.6, 0.65), atol=0.01)
        # Whatever the device answers is shown: done, or why it will not.
        page.wait_for_function("!document.querySelector('.panel .notice.tone-warn')")
        assert not newest_command(running, "set_regions").reply.HasField("error")
        page.locator(".stage-region").wait_for()
        page.get_by_role("button", name="No region").click()
        page.locator(".stage-region").wait_for(state="detached")
        assert not newest_command(running, "set_regions").command.set_regions.regions


def test_tasks_are_switched_off_and_a_frame_is_refined(
    visit: Callable[..., Any], running: Running, photos: Photos
) -> None:
    with streaming(running, photos) as sizes:
        page = visit("/device/cam-1")
        wait_for_frames(page, sizes, 1)
        page.get_by_role("img", name="Reconstruction of frame").wait_for()
        page.get_by_role("checkbox", name="segmentation", exact=True).uncheck()
        page.get_by_role("checkbox", name="landmarks", exact=True).uncheck()
        page.get_by_role("button", name="Set tasks").click()
        page.get_by_text("Tasks: detection: applied").wait_for()
        assert list(newest_command(running, "set_tasks").command.set_tasks.tasks) == ["detection"]

        # Not a frame from before, which is at the finest state.
        page.locator("button:enabled", has_text="Refine frame").wait_for()
        page.get_by_label("Follow").uncheck()
        page.get_by_role("button", name="Refine frame").click()
        page.locator("td", has_text="refine frame").first.wait_for()
        page.wait_for_function("!document.querySelector('.panel .notice.tone-warn')")
        assert not newest_command(running, "refine_frame").reply.HasField("error")


def test_a_key_frame_is_commanded(
    visit: Callable[..., Any], running: Running, photos: Photos
) -> None:
    with streaming(running, photos) as sizes:
        page = visit("/device/cam-1")
        wait_for_frames(page, sizes, 1)
        page.get_by_role("button", name="Key frame", exact=True).click()
        page.get_by_text("Key frame: applied").wait_for()
        assert not newest_command(running, "key_frame").reply.HasField("error")


def test_overlays_are_shown_and_hidden(visit: Callable[..., Any], stored: Running) -> None:
    page = visit("/device/cam-1")
    page.get_by_role("img", name="Reconstruction of frame").wait_for()
    boxes = page.locator(".stage-box")
    boxes.first.wait_for()
    found = page.get_by_role("region", name="Found in this frame")
    found.locator("tbody tr").first.wait_for()
    page.get_by_label("Boxes").uncheck()
    boxes.first.wait_for(state="detached")


def test_the_picture_beside_may_be_another_decoders(
    visit: Callable[..., Any], stored: Running
) -> None:
    page = visit("/device/cam-1", "consumer")
    page.get_by_role("img", name="Reconstruction of frame").wait_for()
    chooser = page.get_by_label("Decoder")
    chooser.wait_for()
    assert chooser.locator("option").all_inner_texts() == ["faithful", "vivid"]
    with page.expect_response(lambda answer: "decoder=vivid" in answer.url) as got:
        chooser.select_option("vivid")
    assert got.value.status == 200
    page.get_by_text("by vivid").wait_for()


def test_a_consumer_sees_pictures_and_no_controls(
    visit: Callable[..., Any], stored: Running
) -> None:
    page = visit("/device/cam-1", "consumer")
    page.get_by_role("img", name="Reconstruction of frame").wait_for()
    for name in ("Set region", "Set tasks", "Refine frame", "Use bundle"):
        assert page.get_by_role("button", name=name).count() == 0
    with FleetClient(stored.server, stored.access) as client:
        given = len(list(client.commands()))
    slider = page.get_by_role("slider", name="State, from the coarsest")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_role("img", name="The same frame at state").wait_for()
    page.wait_for_timeout(1500)
    with FleetClient(stored.server, stored.access) as client:
        assert len(list(client.commands())) == given

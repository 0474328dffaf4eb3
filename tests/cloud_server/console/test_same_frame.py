"""What is beside a picture is of its frame, however long the picture takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.console import Running, streaming

SLOW_S = 1.2

WATCH = """(table) => {
    window.seen = [];
    const note = () => {
        const image = document.querySelector('.stage img');
        const rows = [...document.querySelectorAll(`[aria-label="${table}"] tbody tr`)];
        const refine = [...document.querySelectorAll('button')]
            .map(one => one.innerText).find(text => text.startsWith('Refine frame'));
        const picked = document.querySelector('tr.picked');
        window.seen.push(JSON.stringify({
            image: image ? image.alt : '',
            src: image ? image.getAttribute('src') : '',
            caption: document.querySelector('.stage figcaption').innerText,
            found: rows.map(row => row.querySelector('td').innerText.trim()),
            empty: document.querySelector(`[aria-label="${table}"] .empty-table`)?.innerText || '',
            refine: refine || '',
            picked: picked ? picked.querySelectorAll('td')[2].innerText : '',
        }));
    };
    new MutationObserver(note).observe(document.body,
        {subtree: true, childList: true, characterData: true, attributes: true});
    note();
}"""


def slowly(page: Any) -> None:
    """Pictures take their time from here on."""

    def late(route: Any) -> None:
        time.sleep(SLOW_S)
        route.continue_()

    page.route("**/picture/**", late)


def moments(page: Any) -> list[dict[str, Any]]:
    """What could be seen on the page since it is watched, each once."""
    return page.evaluate("[...new Set(window.seen)].map(one => JSON.parse(one))")


def kinds(words: str) -> set[str]:
    """Of what a picture's description names, such as ``2 x person, face``."""
    return {one.split(" x ")[-1] for one in words.split(", ")} - {"nothing was found"}


def test_a_devices_picture_findings_and_buttons_are_of_one_frame(
    visit: Callable[..., Any], running: Running, photos: dict[str, NDArray[np.uint8]]
) -> None:
    shown = ("astronaut", "coffee", "chelsea")
    # A device of its own: the newest of cam-1's is what other tests look at.
    with streaming(running, photos, pause_s=0.2, names=shown, device="porch") as sizes:
        page = visit("/device/porch")
        page.get_by_role("img", name="Reconstruction of frame").wait_for()
        slowly(page)
        page.evaluate(WATCH, "Found in this frame")
        had, waited = len(sizes()), 0
        # Until four pictures were seen, of more frames than that: they come faster than pictures.
        while len({one["src"] for one in moments(page)}) < 4 or len(sizes()) <= had + 4:
            page.wait_for_timeout(300)
            waited += 1
            assert waited < 200, "frames do not follow one another"
        page.get_by_text("Reconstructing frame").first.wait_for()
    for one in moments(page):
        frame = one["image"].partition(":")[0].rpartition(" ")[2]
        assert one["src"].split("/")[-2] == frame, one
        assert one["caption"].startswith(f"frame {frame},"), one
        assert one["refine"] == f"Refine frame {frame}", one
        assert set(one["found"]) == kinds(one["image"].partition(": ")[2]), one


def test_a_page_that_waits_for_its_first_picture_says_so_and_not_that_there_is_nothing(
    visit: Callable[..., Any], stored: Running
) -> None:
    page = visit("/rates")
    slowly(page)
    page.evaluate("window.scrollTo(0, 0)")
    page.goto(stored.url + "/device/cam-1")
    page.locator(".stage-note", has_text="Reconstructing frame").first.wait_for()
    beside = page.get_by_role("region", name="Found in this frame").first
    assert "Nothing was found" not in beside.inner_text()
    assert "No frame has come" not in page.locator("body").inner_text()
    page.get_by_role("img", name="Reconstruction of frame").wait_for()
    beside.locator("tbody tr").first.wait_for()  # drawn with the picture, if not in the same moment


def test_a_result_that_was_picked_is_shown_with_its_own_findings(
    visit: Callable[..., Any], stored: Running
) -> None:
    page = visit("/results")
    page.locator(".stage img").wait_for()
    slowly(page)
    page.evaluate(WATCH, "Found in this frame")
    rows = page.get_by_role("region", name="Results", exact=True).locator("tbody tr")
    for number in (3, 1, 2):
        rows.nth(number).get_by_role("button").click()
        page.wait_for_timeout(150)  # the last click counts, whatever is under way
    cells = rows.nth(2).locator("td").all_inner_texts()
    page.locator("figcaption", has_text=f"{cells[1]}, frame {cells[2]},").wait_for()
    for one in moments(page):
        frame = one["image"].partition(":")[0].rpartition(" ")[2]
        assert f"frame {frame}," in one["caption"], one
        assert one["picked"] in ("", frame), one
        assert set(one["found"]) == kinds(one["image"].partition(": ")[2]), one
    assert rows.nth(2).get_attribute("class") == "picked"

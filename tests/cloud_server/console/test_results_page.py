"""The timeline is filtered and replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.console import SHOWN, Running


def test_results_are_filtered(visit: Callable[..., Any], stored: Running) -> None:
    page = visit("/results")
    rows = page.get_by_role("region", name="Results", exact=True).locator("tbody tr")
    rows.first.wait_for()
    everything = rows.count()
    page.get_by_label("Class").fill("person")
    page.get_by_label("Class").press("Enter")
    page.wait_for_function(
        "count => document.querySelectorAll('[aria-label=Results] tbody tr').length < count",
        arg=everything,
    )
    rows.first.wait_for()
    assert all("person" in text for text in rows.all_inner_texts())
    page.get_by_label("Score at least").fill("1")
    page.get_by_label("Score at least").press("Tab")
    page.get_by_text("No result fits.").wait_for()
    page.get_by_label("Score at least").fill("")
    page.get_by_label("Class").fill("")
    page.get_by_label("Until, UTC").fill("2001-01-01T00:00")
    page.get_by_label("Until, UTC").press("Tab")
    page.get_by_text("No result fits.").wait_for()


def test_frames_are_replayed_in_their_order(visit: Callable[..., Any], stored: Running) -> None:
    """Of the device that has but a few: how many the other one has sent is up to other tests."""
    page = visit("/results")
    page.locator(".stage img").wait_for()
    scrub = page.get_by_role("slider", name="Place in the timeline")
    everything = scrub.get_attribute("max")
    page.get_by_label("Device").select_option("cam-2")
    page.wait_for_function(
        "([field, all]) => field.max !== all", arg=[scrub.element_handle(), everything]
    )
    last = int(scrub.get_attribute("max"))
    assert last + 1 == len(SHOWN)
    page.get_by_text(f"({last + 1} of {last + 1})").wait_for()  # the newest, before it is replayed
    page.get_by_label("Speed").select_option("20")
    page.evaluate(
        """() => {
            window.seen = [];
            const note = () => {
                const text = document.querySelector('.stage figcaption').innerText;
                if (window.seen.at(-1) !== text) window.seen.push(text);
            };
            new MutationObserver(note).observe(document.querySelector('.stage'),
                {subtree: true, childList: true, characterData: true});
        }"""
    )
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Play").wait_for()  # it has come to the end
    places = [int(text.rpartition("(")[2].split()[0]) for text in page.evaluate("window.seen")]
    places = places[places.index(1) :]  # where it was before it was played is no part of it
    assert places[-1] == last + 1
    assert places == sorted(places)
    assert len(places) >= 3

    scrub.focus()
    page.keyboard.press("Home")
    page.get_by_text(f"(1 of {last + 1})").wait_for()
    page.get_by_role("button", name="Next frame").click()
    page.get_by_text(f"(2 of {last + 1})").wait_for()


def test_a_row_shows_its_frame(visit: Callable[..., Any], stored: Running) -> None:
    page = visit("/results")
    row = page.get_by_role("region", name="Results", exact=True).locator("tbody tr").nth(2)
    row.wait_for()
    frame = row.locator("td").nth(2).inner_text()
    row.get_by_role("button").click()
    page.locator("figcaption", has_text=f"frame {frame},").wait_for()
    assert page.get_by_role("button", name="Live").get_attribute("aria-pressed") == "false"

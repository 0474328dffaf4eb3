"""Pictures as files; all results that fit the filter, as CSV and COCO JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from cloud_server.console.view.timeline import Wish
from tests.support.console import Running


def test_what_the_filter_shows_is_downloaded(visit: Callable[..., Any], stored: Running) -> None:
    page = visit("/results", "consumer")
    page.get_by_label("Device").select_option("cam-2")
    page.get_by_label("Class").fill("person")
    page.get_by_label("Class").press("Tab")
    link = page.get_by_role("link", name="Download CSV")
    page.wait_for_function("link => link.href.includes('person')", arg=link.element_handle())
    with page.expect_download() as saved:
        link.click()
    assert saved.value.suggested_filename == "featherwire-results-cam-2.csv"
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    assert {row["device"] for row in rows} == {"cam-2"}
    frames = {row["sequence"] for row in rows}
    assert all(
        any(row["class"] == "person" for row in rows if row["sequence"] == frame)
        for frame in frames
    )
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download COCO JSON").click()
    document = json.loads(saved.value.path().read_text())
    assert len(document["images"]) == len(frames)
    assert "person" in {one["name"] for one in document["categories"]}
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download the picture").click()
    assert saved.value.suggested_filename.endswith(".webp")
    assert saved.value.path().read_bytes()[8:12] == b"WEBP"


@pytest.mark.parametrize("query", ["since=yesterday", "least_score=2", "least_score=x"])
def test_a_filter_that_is_none_is_refused(
    visit: Callable[..., Any], stored: Running, query: str
) -> None:
    page = visit("/rates", "consumer")
    for path in ("/results.csv", "/results.coco.json"):
        answer = page.request.get(f"{stored.url}{path}?{query}")
        assert (answer.status, answer.json()["reason"]) == (422, "bad_filter")


def test_nobody_downloads_without_a_log_in(browser: Any, running: Running) -> None:
    context = browser.new_context(ignore_https_errors=True, base_url=running.url)
    for path in ("/results.csv", "/results.coco.json", "/thumbnail/cam-1"):
        assert context.request.get(path).status == 401
    context.close()


def test_a_filter_is_read_back_from_its_url() -> None:
    wish = Wish(device="cam-1", class_name="cat, dog & co", least_score=0.25)
    pairs = dict(part.split("=") for part in wish.query[1:].split("&"))
    assert set(pairs) == {"device", "class_name", "least_score"}
    read = Wish.parse({"device": "cam-1", "class_name": "cat, dog & co", "least_score": "0.25"})
    assert read == wish
    assert Wish().query == ""

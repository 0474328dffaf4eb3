"""What the bundles' states cost, and what they are good for."""

from __future__ import annotations

from nicegui import ui

from cloud_server.console.pages.parts import Frame, Table, Tag, complaint
from cloud_server.console.view import rates
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import bundles_pb2


def build(frame: Frame) -> None:
    """The page ``/rates``."""
    with Tag("div", classes="head"):
        Tag("h1", "Rates")
        status = Tag("span", "Waiting for the server.", "muted", role="status")
    content = Tag("div")
    shown = False

    async def look() -> None:
        nonlocal shown
        if shown:
            return
        try:
            bundles = await frame.connection.bundles()
        except FeatherwireError as error:
            status.say(complaint(error), "bad")
            return
        shown = True
        status.say("Bits, distortion and accuracy of the bundles that this server takes.")
        with content:
            for bundle in bundles:
                _bundle(bundle)

    frame.every(2.0, look)


def _bundle(bundle: bundles_pb2.BundleInfo) -> None:
    with Tag("section", classes="panel", aria_label=f"Bundle {bundle.name}"):
        with Tag("div", classes="head"):
            Tag("h2", f"{bundle.name}, version {bundle.version}")
            Tag("span", bundle.bundle_id[:16], "muted small num", title=bundle.bundle_id)
        Tag("p", rates.about(bundle), "muted small")
        with Tag("div", classes="charts"):
            with Tag("div"):
                Tag("h3", "Typical bits per pixel of each state, 0 the finest")
                _chart(rates.state_chart(bundle), "Typical bits per pixel over states")
                with Tag("details"):
                    Tag("summary", "As a table")
                    with Tag("div", classes="details-table"):
                        table = Table(f"States of {bundle.name}", rates.STATE_COLUMNS, "None.")
                        table.show(rows=rates.state_rows(bundle))
            for curve in rates.curves(bundle):
                with Tag("div"):
                    Tag("h3", curve.title)
                    _chart(curve.chart, f"{curve.title} over bits per pixel, as in the table")
                    with Tag("details"):
                        Tag("summary", "As a table")
                        with Tag("div", classes="details-table scroll", tabindex="0"):
                            points = Table(curve.title, rates.POINT_COLUMNS, "Nothing measured.")
                            points.show(rows=curve.rows)


def _chart(options: dict[str, object], label: str) -> None:
    chart = ui.echart(options, renderer="svg").classes("chart")
    chart._props["role"] = "img"
    chart._props["aria-label"] = label

"""Bytes against quality: curves and tables of the bundles, and the states of a stored frame."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cloud_server.console.view import formats
from cloud_server.console.view.formats import cell, column, row
from shared.bitstream import Bitstream
from shared.proto.featherwire.v1 import bundles_pb2

MEASURED = Path(__file__).parents[1] / "measured.json"
COLOURS = ("#2f7ed8", "#d55e00", "#b98300", "#7a869a", "#009e73")
SYMBOLS = ("circle", "rect", "triangle", "diamond", "pin")
POINT_COLUMNS = [
    column("Codec", wide=True),
    column("Setting"),
    column("Bits/pixel", number=True),
    column("Value", number=True),
]
STATE_COLUMNS = [
    column("State", number=True),
    column("Typical bits/pixel", number=True),
    column("Bytes at 640x480", number=True),
    column("Of state 0", number=True),
]


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric of a bundle: a chart, and the same as a table."""

    title: str
    chart: dict[str, Any]
    rows: list[dict[str, Any]]


@cache
def measured() -> dict[str, Any]:
    """What the benchmarks found, by a bundle's name; see ``benchmarks.console_curves``."""
    return dict(json.loads(MEASURED.read_text()))


def state_rows(bundle: bundles_pb2.BundleInfo) -> list[dict[str, Any]]:
    """The bundle's states, as in its manifest, and which is sent where nobody asks for a rate."""
    states = sorted(bundle.states, key=lambda one: one.state)
    default = bundle.default_state  # 0 where the bundle names none
    finest = states[0].typical_bits_per_pixel if states else 0.0
    return [
        row(
            str(one.state),
            [
                cell(f"{one.state}, default" if one.state == default else str(one.state)),
                cell(f"{one.typical_bits_per_pixel:.4f}"),
                cell(f"{one.typical_bits_per_pixel * 640 * 480 / 8:.0f}"),
                cell(f"{100 * one.typical_bits_per_pixel / finest:.0f} %" if finest else ""),
            ],
        )
        for one in states
    ]


def state_chart(bundle: bundles_pb2.BundleInfo) -> dict[str, Any]:
    """Typical bits per pixel over states."""
    points = sorted((one.state, one.typical_bits_per_pixel) for one in bundle.states)
    series = [_series("typical", [[str(state), bits] for state, bits in points], 0, kind="bar")]
    chart = _chart("state", "bits/pixel", series)
    del chart["xAxis"]["min"]
    chart["yAxis"]["scale"] = False  # bars begin at nothing
    chart["xAxis"]["type"] = "category"
    chart["xAxis"]["data"] = [str(state) for state, _ in points]
    return chart


def curves(bundle: bundles_pb2.BundleInfo) -> list[Curve]:
    """What was measured of the bundle of that name; none for a bundle of somebody else's."""
    found = measured().get(bundle.name)
    return [] if found is None else [_curve(metric) for metric in found["metrics"]]


def about(bundle: bundles_pb2.BundleInfo) -> str:
    """On what it was measured."""
    found = measured().get(bundle.name)
    if found is None:
        return "Nothing was measured of this bundle: it did not come with Featherwire."
    other = "" if found["id"] == bundle.bundle_id else " With another version of this bundle."
    return f"Measured on {found['photos']} photos of {found['set']}, means.{other}"


def _curve(metric: dict[str, Any]) -> Curve:
    better = "↓ lower is better" if metric["better"] == "lower" else "↑ higher is better"
    title = f"{metric['label']} ({better})"
    series, rows = [], []
    for number, curve in enumerate(metric["curves"]):
        points = [[bits, value] for bits, value, _ in curve["points"]]
        series.append(_series(curve["label"], points, number))
        for at, (bits, value, knob) in enumerate(curve["points"]):
            cells = [cell(curve["label"]), cell(knob), cell(f"{bits:.4f}"), cell(f"{value:.4f}")]
            rows.append(row(f"{number}-{at}", cells))
    chart = _chart("bits per pixel (logarithmic)", "", series)
    chart["xAxis"]["type"] = "log"
    return Curve(title, chart, rows)


def _series(
    name: str, points: list[list[Any]], number: int, *, kind: str = "line"
) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "data": points,
        "symbol": SYMBOLS[number % len(SYMBOLS)],
        "symbolSize": 8,
        "barMaxWidth": 28,
        "color": COLOURS[number % len(COLOURS)],
        "lineStyle": {"width": 3 if number == 0 else 2},
    }


def _chart(x_name: str, y_name: str, series: list[dict[str, Any]]) -> dict[str, Any]:
    """Colours of texts come from the page's style sheet, for dark and light."""
    faint = {"lineStyle": {"color": "#8793a1", "opacity": 0.25}}
    return {
        "animation": False,
        "grid": {"left": 8, "right": 20, "top": 40, "bottom": 32, "containLabel": True},
        "legend": {"top": 0, "left": 0, "itemGap": 14, "show": len(series) > 1},
        "tooltip": {"trigger": "item", "confine": True},
        "xAxis": {
            "name": x_name,
            "nameLocation": "middle",
            "nameGap": 28,
            "min": 0.01,
            "splitLine": faint,
        },
        "yAxis": {"name": y_name, "scale": True, "splitLine": faint},
        "series": series,
    }


@dataclass(frozen=True, slots=True)
class Rung:
    """One state. size_bytes: of the file; measured: it is what the frame takes, not an estimate."""

    state: int
    size_bytes: float
    bits_per_pixel: float
    measured: bool

    def in_words(self) -> str:
        """``state 3, 1.25 kB, 0.081 bits/pixel``; with ``about`` for an estimate."""
        about = "" if self.measured else "about "
        return (
            f"state {self.state}, {about}{formats.size(self.size_bytes)}, "
            f"{about}{self.bits_per_pixel:.3f} bits/pixel"
        )


@dataclass(frozen=True, slots=True)
class Ladder:
    """States 0 (the finest) to the coarsest of a frame's bundle; ``present``: the frame as
    received. A rung without bytes is of a state that the bundle does not have, or is not known to
    have. decoders: the bundle's, that make pictures, the default first."""

    rungs: tuple[Rung, ...]
    present: Rung
    decoders: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[Rung, ...]:
        """The states that there are, the coarsest first: the places of the slider."""
        return tuple(one for one in reversed(self.rungs) if one.size_bytes)

    @property
    def coarsest(self) -> int:
        """The last state."""
        return self.steps[0].state

    @property
    def finest(self) -> int:
        """The finest state that there is, come or not."""
        return self.steps[-1].state

    def rung(self, state: int) -> Rung:
        """The rung of that state, or of the next finer one that there is."""
        return next((one for one in self.steps if one.state <= state), self.steps[-1])

    def place(self, state: int) -> int:
        """Where the slider has a state."""
        return self.steps.index(self.rung(state))

    def can_show(self, state: int) -> bool:
        """Whether the stored frame can be cut to it."""
        return self.rung(state).measured

    def why_not(self, state: int) -> str:
        """Why it cannot."""
        if state < self.present.state:
            return f"This frame came at state {self.present.state}; state {state} is finer."
        return f"This frame cannot be cut to state {state}: it came at {self.present.state} alone."

    def saving(self, state: int) -> str:
        """Of ``state`` against what is received now, in words."""
        if not self.present.size_bytes:
            return ""
        change = self.rung(state).size_bytes / self.present.size_bytes - 1
        if abs(change) < 0.005:
            return "as now"
        return f"{formats.share(abs(change))} {'fewer' if change < 0 else 'more'} bytes than now"


def ladder(
    bitstream: Bitstream, typical: Mapping[int, float], decoders: Sequence[str] = ()
) -> Ladder:
    """typical: bits per pixel of the bundle's states; those that the frame lacks are estimated.

    Estimates are in proportion to what the frame takes at its finest whole state.
    """
    pixels = bitstream.width * bitstream.height
    sizes = bitstream.cumulative_bytes()
    finest = bitstream.state
    usual = typical.get(finest, 0.0)
    scale = 8 * sizes[finest] / pixels / usual if usual else 1.0
    rungs = []
    for state in range(max((*typical, *sizes)) + 1):
        measured = state in sizes
        bits = 8 * sizes[state] / pixels if measured else scale * typical.get(state, 0.0)
        rungs.append(Rung(state, bits * pixels / 8, bits, measured))
    whole = bitstream.file_bytes
    present = Rung(finest, whole, 8 * whole / pixels, True)
    return Ladder(tuple(rungs), present, tuple(decoders))

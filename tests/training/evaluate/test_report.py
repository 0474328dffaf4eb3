"""From points to pages: rate differences found again, honest words, plots."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.support.tiny_bundle import make_tiny_bundle
from training.cli import build_app
from training.evaluate.measure import Column, Key, Measurements
from training.evaluate.photos import EvaluationPhoto, Truth
from training.evaluate.report.comparison import bd_rates, equal_rate_rows
from training.evaluate.report.pictures import markdown, point_columns, summary
from training.evaluate.report.plots import plot_all
from training.evaluate.report.tables import Table, metric_tables

PHOTOS = [f"p{number}" for number in range(12)]
AREA = 512 * 384
BOX = (40.0, 40.0, 60.0, 60.0)


def made_up(
    codec: str, factor: float, knobs: int = 6, low: float = 0.012, step: float = 1.8
) -> dict[Key, Column]:
    """LPIPS and PSNR that depend on the rate over ``factor``: a codec ``factor`` times as dear."""
    rng = np.random.default_rng(5)
    difficulty = rng.normal(0, 0.03, len(PHOTOS))
    columns = {}
    for knob in range(knobs):
        column = columns[codec, knob] = Column()
        rate = low * step**knob
        for harder in difficulty:
            column.bytes.append(round(rate * AREA / 8))
            column.bits_per_pixel.append(rate)
            column.figures.append(
                {
                    "psnr": 30 + 4 * np.log10(rate / factor) - 10 * harder,
                    "lpips_vgg": 0.1 - 0.12 * np.log10(rate / factor) + harder,
                    "mask_iou": None,
                    "detections": [[1, 0.9, *BOX]] if knob > 2 else [],
                }
            )
    return columns


@pytest.fixture(scope="module")
def measurements() -> Measurements:
    columns = made_up("featherwire", 1.0) | made_up("avif", 2.0, low=0.08)
    columns |= made_up("avif-half", 1.5, low=0.03, knobs=5) | made_up("jpeg", 60.0, knobs=4)
    count = len(PHOTOS)
    found = [{"detections": [[1, 0.9, *BOX]]} for _ in PHOTOS]
    columns["original", 24] = Column([3 * AREA] * count, [24.0] * count, found)
    nothing = np.zeros((0, 0, 3), np.uint8)
    photos = [EvaluationPhoto(name, nothing, (Truth(1, BOX, False),)) for name in PHOTOS]
    return Measurements(photos, [(512, 384)] * count, columns)


@pytest.fixture(scope="module")
def tables(measurements: Measurements) -> dict[str, Table]:
    return metric_tables(measurements, resamples=40)


def test_rate_differences_are_found_again_with_their_intervals(
    tables: dict[str, Table],
) -> None:
    found = {one.anchor: one for one in bd_rates(tables["lpips_vgg"])}
    better_avif = found["AVIF, better of full and half size"]
    assert better_avif.rate.value == pytest.approx(1 / 1.5 - 1, abs=0.02)
    assert better_avif.rate.interval is not None
    assert better_avif.rate.interval[0] <= better_avif.rate.value <= better_avif.rate.interval[1]
    jpeg = found["JPEG"]
    assert jpeg.rate.value is None
    assert "its finest" in jpeg.note
    assert "WebP" not in found  # not measured


def test_average_precision_comes_beside_the_uncompressed_one(
    tables: dict[str, Table],
) -> None:
    rows = {
        (row["codec"], row["bits_per_pixel"]): row
        for row in equal_rate_rows(tables["detection_ap"])
    }
    assert tables["detection_ap"].original is not None
    assert tables["detection_ap"].original[0] == pytest.approx(1)
    assert rows["featherwire", 0.03]["value"] is not None
    best = max(row["value"] or 0 for row in rows.values())
    assert best == pytest.approx(1)
    assert all(
        row["of_uncompressed"] == pytest.approx(row["value"])
        for row in rows.values()
        if row["value"] is not None
    )


def test_a_metric_that_no_photo_has_makes_no_table(tables: dict[str, Table]) -> None:
    assert set(tables) == {"psnr", "lpips_vgg", "detection_ap"}


def test_the_page_and_the_json_say_the_same(
    measurements: Measurements, tables: dict[str, Table]
) -> None:
    described = {"bundle": "ab" * 32, "set": "made-up", "long_side": 512, "notes": ["vgg is so"]}
    document = json.loads(json.dumps(summary(measurements, tables, described)))
    page = markdown(document)
    row = next(
        row
        for row in document["bd_rates"]
        if row["metric"] == "lpips_vgg" and row["anchor"].startswith("AVIF, better")
    )
    assert f"{row['bd_rate']:+.1%}" in page
    assert "no common values: its finest" in page
    assert "Note: vgg is so." in page
    assert "| featherwire | 0 |" in page
    columns = point_columns(measurements)
    assert len(columns["codecs"]["featherwire"]["0"]["psnr"]) == len(PHOTOS)
    assert "detections" not in columns["codecs"]["featherwire"]["0"]


def test_plots_are_small_and_the_same_every_time(tables: dict[str, Table], tmp_path: Path) -> None:
    first = [path.read_bytes() for path in plot_all(tables, tmp_path / "a")]
    again = [path.read_bytes() for path in plot_all(tables, tmp_path / "b")]
    assert first == again
    assert len(first) == len(tables)
    assert all(b"featherwire" in plot and len(plot) < 150_000 for plot in first)


def test_the_command_writes_results_and_takes_the_second_run_from_its_cache(
    tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    make_tiny_bundle(tmp_path / "bundle")
    words = [
        "evaluate", str(photo_files["coffee"]), str(photo_files["chelsea"]),
        "--bundle", str(tmp_path / "bundle"), "--side", "96", "--metrics", "pixels",
        "--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "out"), "--resamples", "10",
    ]  # fmt: skip
    first = CliRunner().invoke(build_app(), words)
    assert first.exit_code == 0, first.output
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"curves.json", "points.json", "table.md", "rate-psnr.svg"} <= files
    again = CliRunner().invoke(build_app(), words)
    assert again.stdout == first.stdout
    assert again.stderr.count(": 0 points measured") == 2
    wrong = CliRunner().invoke(build_app(), [*words[:2], "--metrics", "beauty"])
    assert wrong.exit_code == 2

"""Accuracy over rate of a real small bundle and real encoders, on pictures of known things."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.bundle import Bundle
from tests.support.feature_bundle import SIDE, make_feature_bundle
from tests.support.tiny_bundle import make_tiny_bundle
from training.evaluate.judges.kinds import kind_of
from training.evaluate.judges.networks import TaskJudge, UncutNetwork
from training.evaluate.measure import PointCache, measure
from training.evaluate.photos import EvaluationError, EvaluationPhoto, Truth
from training.evaluate.report.accuracy import markdown
from training.evaluate.run import AccuracyPlan, evaluate_accuracy, write_accuracy
from training.evaluate.subjects import Halves, TailStates

RED, BLUE = 1, 2
COLOURS = {RED: (250, 10, 10), BLUE: (10, 10, 250)}
BASELINES = ("avif-input", "jpeg", "jpeg-half")


def coloured_photo(seed: int) -> EvaluationPhoto:
    """Twice the bundle's size and green, with cells (one of its positions each) red or blue."""
    rng = np.random.default_rng(seed)
    cell = 2 * SIDE // 4
    pixels = rng.integers(0, 30, (2 * SIDE, 2 * SIDE, 3), np.uint8)
    pixels[:, :, 1] += 120
    objects = []
    for place in rng.choice(16, 4, replace=False).tolist():
        kind = int(rng.choice([RED, BLUE]))
        y, x = place // 4 * cell, place % 4 * cell
        strength = rng.uniform(0.55, 1)
        pixels[y : y + cell, x : x + cell] = np.array(COLOURS[kind]) * strength
        objects.append(Truth(kind, (float(x), float(y), float(cell), float(cell)), False))
    return EvaluationPhoto(f"{seed}.png", pixels, tuple(objects))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_feature_bundle(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def photos() -> list[EvaluationPhoto]:
    return [coloured_photo(seed) for seed in range(6)]


def plan(bundles: list[Bundle], cache: Path | None = None) -> AccuracyPlan:
    network = UncutNetwork(Halves(bundles[0]), "detection")
    return AccuracyPlan(
        bundles, "colours", baselines=BASELINES, resamples=20, cache=cache, network=network
    )


def test_every_state_and_every_baseline_has_its_bits_and_figures(
    bundle: Bundle, pictures: Bundle, photos: list[EvaluationPhoto], tmp_path: Path
) -> None:
    results = evaluate_accuracy(photos, plan([bundle, pictures]), lambda text: None)
    document = json.loads(json.dumps(results.document, allow_nan=False))
    assert results.ours == ("tiny-features", "tiny")
    assert document["uncompressed"]["value"] > 0.5
    rows = {(row["subject"], row["knob"]): row for row in document["points"]}
    states = [rows["tiny-features", state] for state in range(4)]
    halves = Halves(bundle)
    for state, row in enumerate(states):
        sizes = [
            8 * len(stream.to_bytes()) / photo.pixels[:, :, 0].size
            for photo in photos
            for stream in halves.bitstreams(photo.pixels, [state])
        ]
        assert row["bits_per_pixel"] == pytest.approx(np.mean(sizes), abs=1e-5)
        assert {"ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"} <= set(row)
        assert row["of_uncompressed"] == pytest.approx(
            row["ap"] / document["uncompressed"]["value"], abs=1e-3
        )
    assert states[0]["bits_per_pixel"] > states[1]["bits_per_pixel"]
    assert rows["tiny-features-unquantised", 16]["of_uncompressed"] == 1
    assert {row["knob"] for row in document["points"] if row["subject"] == "tiny"} == set(range(5))
    assert {row["subject"] for row in document["points"]} >= set(BASELINES)
    write_accuracy(tmp_path, results, print)
    assert json.loads((tmp_path / "accuracy-detection.json").read_text()) == document
    assert "Refining on uncertainty" in (tmp_path / "accuracy-detection.md").read_text()
    assert b"tiny-features" in (tmp_path / "accuracy-detection.svg").read_bytes()


def test_points_are_taken_from_the_cache(
    bundle: Bundle, photos: list[EvaluationPhoto], tmp_path: Path
) -> None:
    lines: list[str] = []
    first = evaluate_accuracy(photos[:2], plan([bundle], tmp_path), lines.append)
    assert all(not line.endswith(" 0 points measured") for line in lines)
    lines.clear()
    again = evaluate_accuracy(photos[:2], plan([bundle], tmp_path), lines.append)
    assert [line.split(": ")[1] for line in lines] == ["0 points measured"] * 2
    assert first.document == again.document
    assert markdown(first.document) == markdown(again.document)


def test_states_of_one_chain_are_cut_from_one_file(bundle: Bundle) -> None:
    photo = coloured_photo(1)
    finest, coarser = Halves(bundle).bitstreams(photo.pixels, [0, 1])
    assert finest.truncate(1) == coarser
    (other,) = Halves(bundle).bitstreams(photo.pixels, [3])
    assert other.layers[0].state == 3


def test_pixels_are_let_go_and_a_single_pass_is_enough(
    bundle: Bundle, photos: list[EvaluationPhoto]
) -> None:
    halves = Halves(bundle)
    judge = TaskJudge(kind_of("boxes"), UncutNetwork(halves, "detection"))

    def once() -> Iterator[EvaluationPhoto]:
        yield from photos[:3]

    tail = TailStates(halves, "detection")
    found = measure(once(), [tail], [judge], cache=PointCache(None))
    assert [photo.pixels.size for photo in found.photos] == [0, 0, 0]
    assert [len(column.outputs) for column in found.columns.values()] == [3] * 4


def test_what_cannot_be_evaluated_is_said(
    bundle: Bundle, pictures: Bundle, photos: list[EvaluationPhoto]
) -> None:
    with pytest.raises(EvaluationError) as caught:
        evaluate_accuracy([], plan([bundle]), print)
    assert caught.value.reason == "no_photos"
    with pytest.raises(EvaluationError) as caught:
        evaluate_accuracy(photos, AccuracyPlan([pictures], "x", "regions"), print)
    assert caught.value.reason == "no_tails"
    with pytest.raises(EvaluationError) as caught:
        Halves(pictures).tail("detection")
    assert caught.value.reason == "no_tails"
    with pytest.raises(EvaluationError) as caught:
        evaluate_accuracy(photos, plan([bundle, bundle]), print)
    assert caught.value.reason == "same_name"

"""Advice is what measurements say: thresholds that hold false positives down, a state at a knee."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.bundle import ADVICE_NAME, Bundle
from tests.support.commands import run
from tests.support.tiny_bundle import make_tiny_bundle
from training.advice import WrongScores, default_state, least_scores, worth_its_bits
from training.evaluate.photos import EvaluationError

COMMON, RARE, SILENT = 1, 2, 3


def scores(count: int, seed: int, low: float = 0.5, high: float = 0.8) -> list[float]:
    return list(np.random.default_rng(seed).uniform(low, high, count))


def left(row: dict[int, list[float]], least: dict[int, float], others: float) -> int:
    return sum(s >= least.get(key, others) for key, found in row.items() for s in found)


def test_false_positives_come_down_to_those_without_compression_at_every_state() -> None:
    states = [
        {COMMON: scores(10 * (1 + state), state), RARE: scores(1 + state, 50 + state)}
        for state in range(4)
    ]
    wrong = WrongScores(100, {COMMON: 8, RARE: 0}, states)
    others, classes = least_scores(wrong, 0.5)
    for state, row in enumerate(states):
        least = {key: column[state] for key, column in classes.items()}
        assert left(row, least, others[state]) <= 8
        assert left(row, least, others[state]) >= 3  # nor are more left out than need be
    assert list(others) == sorted(others)
    assert all(0.5 <= value <= 1 for column in (others, *classes.values()) for value in column)


def test_where_there_are_no_more_than_before_the_task_s_own_threshold_stays() -> None:
    wrong = WrongScores(100, {COMMON: 30}, [{COMMON: scores(30, 1)}, {}])
    others, classes = least_scores(wrong, 0.5)
    assert others == (0.5, 0.5)
    assert classes == {COMMON: (0.5, 0.5)}


def test_one_false_positive_of_a_rare_class_does_not_silence_it() -> None:
    states = [{COMMON: scores(60, 1), RARE: [0.79]}]
    others, classes = least_scores(WrongScores(100, {COMMON: 20}, states), 0.5)
    assert others[0] <= classes[RARE][0] < 0.8
    assert classes[RARE][0] - others[0] < 0.1


def test_a_class_that_is_wrong_often_and_surely_gets_a_higher_threshold() -> None:
    states = [{COMMON: scores(60, 1, 0.5, 0.7), RARE: scores(60, 2, 0.7, 0.95)}]
    _, classes = least_scores(WrongScores(100, {COMMON: 10, RARE: 10}, states), 0.5)
    assert classes[RARE][0] > classes[COMMON][0]


# -- the default state -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "figures", "place"),
    [
        ([1, 2, 3, 4], [[0, 1, 2, 3]], 3),  # all bits bring the same
        ([1, 2, 3, 4], [[0, 9, 10, 10]], 1),
        ([1, 2, 3, 4], [[0, 5, 9, 9.1]], 2),
        ([1, 2, 3, 4], [[0, 5, 5, 9]], 3),  # a bad step does not hide the good one behind it
        ([1, 2, 3, 4], [[9, 9, 9, 9]], 0),
        ([1, 2, 3, 4], [[3, 2, 1, 0]], 0),
        ([1], [[5]], 0),
        ([1, 2, 3, 4], [[0, 9, 10, 10], [-4.0, -1.0, -0.9, -0.9]], 1),
    ],
)
def test_the_finest_state_that_is_worth_its_bits(
    rates: list[float], figures: list[list[float]], place: int
) -> None:
    assert worth_its_bits(rates, figures) == place


def document(bundle_id: str, subject: str = "featherwire") -> dict[str, Any]:
    lpips = [0.19, 0.195, 0.2, 0.25, 0.4]  # the finest state first
    rows = [
        {"codec": subject, "knob": state, "bits_per_pixel": 0.25 - 0.05 * state, "lpips_vgg": value}
        for state, value in enumerate(lpips)
    ]
    others = [{"codec": "avif", "knob": 9, "bits_per_pixel": 9.0, "lpips_vgg": 0.0}]
    return {"bundle": bundle_id, "averages": [*rows, *others]}


def test_the_default_state_is_read_off_an_evaluation_of_this_bundle(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path)
    assert default_state(bundle, document(bundle.id)) == 2
    points = [
        {"subject": name, "knob": state, "bits_per_pixel": 0.25 - 0.05 * state, "ap": ap}
        for name, aps in (("tiny", [0.4, 0.39, 0.38, 0.37, 0.1]), ("avif", [1, 1, 1, 1, 0]))
        for state, ap in enumerate(aps)
    ]
    of_task = {"bundles": {"tiny": bundle.id}, "points": points}
    assert default_state(bundle, of_task) == 3
    with pytest.raises(EvaluationError) as refused:
        default_state(bundle, document("0" * 64))
    assert refused.value.reason == "another_bundle"
    with pytest.raises(EvaluationError) as refused:
        default_state(bundle, document(bundle.id, "another"))
    assert refused.value.reason == "no_figures"


def test_the_command_writes_advice_and_leaves_what_it_did_not_measure(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    evaluated = tmp_path / "curves.json"
    evaluated.write_text(json.dumps(document(bundle.id)))
    done = run(
        "training", "advise", "--bundle", bundle.origin, "--evaluated", str(evaluated), "--json"
    )
    assert json.loads(done.stdout)["default_state"] == 2
    again = Bundle.load(bundle.origin)
    assert (again.id, again.advice.default_state) == (bundle.id, 2)
    assert (tmp_path / "bundle" / ADVICE_NAME).is_file()


def test_nothing_is_fitted_to_what_bundles_are_evaluated_on(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "coco128").mkdir()
    done = run("training", "advise", str(tmp_path / "coco128"), "--bundle", bundle.origin)
    assert done.returncode == 1
    assert "evaluated_on" in done.stderr
    assert not (tmp_path / "bundle" / ADVICE_NAME).exists()

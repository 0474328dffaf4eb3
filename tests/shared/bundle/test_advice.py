"""Advice on a bundle: it changes what is done by default, never what a bitstream is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codec.base import PLAIN, rendering_for_tasks
from shared.bundle import ADVICE_NAME, Advice, Bundle, ScoreThresholds
from shared.errors import BundleError
from tests.support.tiny_bundle import make_tiny_bundle

MODEL = "ab" * 32
STATES = 5
ADVICE = Advice(
    default_state=2,
    score_thresholds=(
        ScoreThresholds(
            task="detection",
            model=MODEL,
            others=(0.5, 0.5, 0.6, 0.6, 0.7),
            classes={"boat": (0.5, 0.6, 0.7, 0.8, 0.9)},
        ),
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def advise(folder: Path, data: bytes = ADVICE.to_bytes()) -> Bundle:
    (folder / ADVICE_NAME).write_bytes(data)
    return Bundle.load(folder)


def test_a_bundle_without_advice_has_no_default_state_and_no_threshold(folder: Path) -> None:
    advice = Bundle.load(folder).advice
    assert (advice.default_state, advice.score_thresholds) == (None, ())
    assert ADVICE_NAME.encode() not in Bundle.load(folder).to_zip()


def test_advice_leaves_the_bundle_its_id(folder: Path) -> None:
    before = Bundle.load(folder)
    after = advise(folder)
    assert after.id == before.id
    assert after.advice == ADVICE


def test_thresholds_are_of_a_class_a_state_and_the_weights_that_gave_the_scores() -> None:
    found = ADVICE.thresholds("detection", [None, MODEL])
    assert found is not None
    assert (found.of("boat", 3), found.of("cat", 3), found.of("cat", 0)) == (0.8, 0.6, 0.5)
    assert ADVICE.thresholds("detection", ["cd" * 32]) is None
    assert ADVICE.thresholds("landmarks", [MODEL]) is None


def test_a_device_gets_the_default_state_and_not_the_thresholds(folder: Path) -> None:
    bundle = advise(folder)
    whole = Bundle.from_zip_bytes(bundle.to_zip())
    edge = Bundle.from_zip_bytes(bundle.to_zip("edge"))
    assert whole.advice == ADVICE
    assert edge.advice == Advice(default_state=2)
    assert whole.id == edge.id == bundle.id


def test_tasks_look_at_the_pictures_of_a_decoder_that_may_be_named(folder: Path) -> None:
    assert rendering_for_tasks(Bundle.load(folder)) == PLAIN
    first = Bundle.load(folder).manifest.pictures[0].name
    bundle = advise(folder, Advice(task_decoder=first).to_bytes())
    assert bundle.advice.task_decoder == first
    assert rendering_for_tasks(bundle) == PLAIN
    assert Bundle.from_zip_bytes(bundle.to_zip("edge")).advice == Advice()
    with pytest.raises(BundleError, match="task_decoder 'dream' of") as refused:
        bundle.advised(Advice(task_decoder="dream"))
    assert refused.value.reason == "bad_advice"
    assert bundle.advised(ADVICE).advice == ADVICE


def test_what_a_later_release_adds_is_passed_over(folder: Path) -> None:
    later = json.loads(ADVICE.to_bytes()) | {"weather": "fine"}
    later["score_thresholds"][0]["photos"] = 12
    assert advise(folder, json.dumps(later).encode()).advice == ADVICE


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"default_state": STATES}, "default_state"),
        ({"default_state": -1}, "default_state"),
        ({"task_decoder": "dream"}, "task_decoder"),
        ({"task_decoder": "A b"}, "task_decoder"),
        ({"format": "featherwire-advice/9"}, "format"),
        ({"score_thresholds": [{"task": "detection", "model": MODEL, "others": [0.5]}]}, "states"),
        ({"score_thresholds": [{"task": "detection", "model": "x", "others": [0.5]}]}, "model"),
        (
            {"score_thresholds": [{"task": "a", "model": MODEL, "others": [2.0] * STATES}]},
            "others",
        ),
    ],
)
def test_bad_advice_is_refused_and_says_where(
    folder: Path, change: dict[str, object], where: str
) -> None:
    bundle = advise(folder, json.dumps(json.loads(ADVICE.to_bytes()) | change).encode())
    with pytest.raises(BundleError, match=where) as refused:
        bundle.verify()
    assert refused.value.reason == "bad_advice"


def test_what_is_no_advice_is_refused(folder: Path) -> None:
    for data in (b"", b"[]", b"\xff", b"null", b'{"default_state": NaN}'):
        with pytest.raises(BundleError) as refused:
            _ = advise(folder, data).advice
        assert refused.value.reason == "bad_advice"
    with pytest.raises(BundleError) as refused:
        _ = advise(folder, b" " * (2**20 + 1)).advice
    assert refused.value.reason == "limit_exceeded"

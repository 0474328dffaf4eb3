"""What results show of what was found: thresholds of the bundle's advice, or of a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.engine import EngineFrame, EngineOutcome, LocalEngine
from cloud_server.engine.files import Analyzer
from cloud_server.engine.pipeline import Showing
from edge_client.encoder import EdgeEncoder
from shared.bundle import ADVICE_NAME, Advice, Bundle, ScoreThresholds
from shared.errors import BundleError
from shared.results import (
    Box,
    Detection,
    Face,
    Instance,
    ModelInfo,
    TaskResult,
    encode_mask,
)
from tests.support.feature_bundle import make_feature_bundle
from tests.support.tiny_bundle import make_tiny_bundle

BOX = Box(x_min=1, y_min=2, x_max=30, y_max=40)
WEIGHTS, OTHER_WEIGHTS = "ab" * 32, "cd" * 32
FINE, COARSE = 0, 4


def found(name: str, score: float) -> Detection:
    return Detection(box=BOX, class_id=1, class_name=name, score=score)


class Sees:
    """A task that finds the same in every picture."""

    name = "detection"

    def __init__(self, sha256: str = WEIGHTS) -> None:
        self.models = [ModelInfo(name="eye", version="1", sha256=sha256, licence="Apache-2.0")]

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        seen = [found("boat", 0.55), found("boat", 0.85), found("cat", 0.55)]
        return [TaskResult(task=self.name, model=self.models, detections=seen) for _ in images]


def advised(folder: Path, model: str = WEIGHTS) -> Bundle:
    bundle = make_tiny_bundle(folder)
    one = ScoreThresholds(
        task="detection",
        model=model,
        others=(0.5, 0.5, 0.5, 0.5, 0.6),
        classes={"boat": (0.5, 0.6, 0.7, 0.8, 0.9)},
    )
    people = one.model_copy(update={"task": "segmentation", "classes": {}})
    faces = one.model_copy(update={"task": "landmarks", "classes": {}})
    advice = Advice(score_thresholds=(one, people, faces))
    (folder / ADVICE_NAME).write_bytes(advice.to_bytes())
    return Bundle.load(bundle.origin)


async def analysed(
    bundle: Bundle, image: NDArray[np.uint8], state: int, **more: object
) -> EngineOutcome:
    task: Callable[[], Sees] = more.pop("task", Sees)  # type: ignore[assignment]
    engine = await LocalEngine.open(bundle, tasks={"detection": task}, **more)  # type: ignore[arg-type]
    bitstream = EdgeEncoder(bundle).encode(image, state=state)
    outcome = await engine.submit(EngineFrame((bitstream,), ("detection",)))
    await engine.close()
    return outcome


def shown(outcome: EngineOutcome) -> list[tuple[str, float]]:
    assert outcome.analysis is not None
    items = outcome.analysis.tasks["detection"].detections or []
    return [(item.class_name, item.score) for item in items]


async def test_each_class_has_the_threshold_of_the_frame_s_state(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    bundle = advised(tmp_path)
    assert len(shown(await analysed(bundle, image, FINE))) == 3
    middle = await analysed(bundle, image, 3)
    assert shown(middle) == [("boat", 0.85), ("cat", 0.55)]
    assert shown(await analysed(bundle, image, COARSE)) == []


async def test_what_is_not_shown_is_a_doubt_for_which_more_can_be_asked(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    outcome = await analysed(advised(tmp_path), image, 3)
    assert outcome.doubts == (0.55,)


async def test_scores_of_other_weights_are_not_measured_by_these(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    outcome = await analysed(advised(tmp_path), image, COARSE, task=lambda: Sees(OTHER_WEIGHTS))
    assert len(shown(outcome)) == 3


async def test_a_score_that_a_person_asks_for_wins(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    bundle = advised(tmp_path)
    assert len(shown(await analysed(bundle, image, COARSE, shown_score=0.3))) == 3
    assert shown(await analysed(bundle, image, FINE, shown_score=0.7)) == [("boat", 0.85)]


async def test_a_bundle_without_advice_shows_what_the_task_shows(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    assert len(shown(await analysed(make_tiny_bundle(tmp_path), image, COARSE))) == 3


def test_people_and_faces_have_thresholds_too(tmp_path: Path) -> None:
    showing = Showing(advised(tmp_path), COARSE)
    model = Sees().models
    mask = encode_mask(np.ones((40, 30), np.uint8))
    people = [
        Instance(box=BOX, class_id=1, class_name="person", score=score, mask=mask)
        for score in (0.55, 0.65)
    ]
    result, _ = showing.shown(TaskResult(task="segmentation", model=model, instances=people))
    assert result.instances == people[1:]
    faces = [Face(box=BOX, score=score) for score in (0.55, 0.65)]
    result, _ = showing.shown(TaskResult(task="landmarks", model=model, faces=faces))
    assert result.faces == faces[1:]


def test_files_show_what_a_server_shows(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    bundle = make_feature_bundle(tmp_path)
    red = np.zeros_like(image)
    red[: len(red) // 2, :, 0] = 250
    data = EdgeEncoder(bundle).encode(red, state=1).to_bytes()
    tail = bundle.manifest.files["tail.onnx"].sha256

    def shown_by(score: float | None = None) -> list[float]:
        analyzer = Analyzer(bundle=str(tmp_path), shown_score=score)
        result = analyzer.analyze(data).result.tasks["detection"]
        return [item.score for item in result.detections or ()]

    before = shown_by()
    assert before
    assert max(before) < 1
    rows = (0.5, 1.0, 0.5, 0.5)
    one = ScoreThresholds(task="detection", model=tail, others=rows)
    (tmp_path / ADVICE_NAME).write_bytes(Advice(score_thresholds=(one,)).to_bytes())
    assert shown_by() == []
    assert shown_by(0.5) == before
    assert len(shown_by(0.01)) >= len(before)


async def test_damaged_advice_is_said_when_the_server_starts(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    (tmp_path / ADVICE_NAME).write_bytes(b"{")
    with pytest.raises(BundleError) as refused:
        await LocalEngine.open(Bundle.load(tmp_path), tasks={"detection": Sees})
    assert refused.value.reason == "bad_advice"

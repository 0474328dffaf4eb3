"""How a picture is made, and what a frame is predicted from, travel with the frame."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from cloud_server.engine import EngineFrame, EngineOutcome, LocalEngine
from cloud_server.engine.messages import frame_from_message, frame_to_message
from codec.base import Rendering
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.results import ModelInfo, TaskResult
from shared.wire import PictureRequest


class Looks:
    """A task that finds nothing in any picture."""

    @property
    def models(self) -> list[ModelInfo]:
        return []

    def run(self, images: list[np.ndarray]) -> list[TaskResult]:
        return [TaskResult(task="looks", model=[], detections=[]) for _ in images]


async def outcome_of(bundle: Bundle, frame: EngineFrame) -> EngineOutcome:
    engine = await LocalEngine.open(bundle, tasks={"looks": Looks})
    try:
        return await engine.submit(frame)
    finally:
        await engine.close()


def test_they_travel_to_workers(encoder: EdgeEncoder, image: np.ndarray) -> None:
    bitstream = encoder.encode(image)
    frame = EngineFrame(
        (bitstream,),
        picture=PictureRequest(),
        references=(bitstream, bitstream.truncate(bitstream.state + 1)),
        rendering=Rendering("vivid", 7),
    )
    assert frame_from_message(frame_to_message(frame, 1, frame.deadline_s)) == frame
    plain = EngineFrame((bitstream,))
    assert frame_from_message(frame_to_message(plain, 1, plain.deadline_s)) == plain


async def test_a_decoder_that_the_bundle_lacks_costs_the_picture_and_no_task(
    tiny_bundle: Bundle, encoder: EdgeEncoder, image: np.ndarray
) -> None:
    frame = EngineFrame(
        (encoder.encode(image),),
        ("looks",),
        PictureRequest(),
        rendering=Rendering("from-a-dream"),
    )
    outcome = await outcome_of(tiny_bundle, frame)
    assert outcome.picture_error is not None
    assert outcome.picture_error.reason == "unknown_decoder"
    assert outcome.analysis is not None
    assert list(outcome.analysis.tasks) == ["looks"]


async def test_a_prediction_reaches_the_codec(
    tiny_bundle: Bundle, encoder: EdgeEncoder, image: np.ndarray
) -> None:
    bitstream = encoder.encode(image)
    outcome = await outcome_of(
        tiny_bundle, EngineFrame((bitstream,), ("looks",), references=(bitstream,))
    )
    assert outcome.error is not None
    assert outcome.error.reason == "reference_unsupported"  # this codec has key frames alone


@pytest.mark.parametrize("named", [False, True])
async def test_a_picture_of_the_first_decoder_by_name_or_not(
    tiny_bundle: Bundle, encoder: EdgeEncoder, image: np.ndarray, named: bool
) -> None:
    name = tiny_bundle.manifest.pictures[0].name if named else None
    frame = EngineFrame((encoder.encode(image),), (), PictureRequest(), rendering=Rendering(name))
    outcome = await asyncio.wait_for(outcome_of(tiny_bundle, frame), 60)
    assert outcome.picture is not None
    assert (outcome.picture.height, outcome.picture.width) == image.shape[:2]

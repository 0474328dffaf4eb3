"""How a picture is made, and what a frame was decoded to, travel with the frame."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cloud_server.engine import Decoded, EngineFrame, EngineOutcome, LocalEngine, files
from cloud_server.engine.messages import frame_from_message, frame_to_message
from cloud_server.engine.pipeline import LastPictures
from codec.base import Rendering, open_cloud, open_edge, small_bundle, small_kinds
from codec.null.cloud import JpegPictures
from edge_client.encoder import EdgeEncoder
from shared.bundle import ADVICE_NAME, Advice, Bundle
from shared.results import ModelInfo, TaskResult
from shared.wire import PictureRequest


class Looks:
    """A task that finds nothing in any picture, and keeps those that it saw."""

    name = "looks"

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []

    @property
    def models(self) -> list[ModelInfo]:
        return []

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        self.seen += images
        return [TaskResult(task="looks", model=[], detections=[]) for _ in images]


async def outcome_of(bundle: Bundle, frame: EngineFrame) -> EngineOutcome:
    engine = await LocalEngine.open(bundle, tasks={"looks": Looks})
    try:
        return await engine.submit(frame)
    finally:
        await engine.close()


def test_they_travel_to_workers(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> None:
    bitstream = encoder.encode(image)
    frame = EngineFrame(
        (bitstream,),
        picture=PictureRequest(decoder="vivid", seed=7),
        decoded=(Decoded(packed=b"values"),),
    )
    assert frame_from_message(frame_to_message(frame, 1, frame.deadline_s)) == frame
    plain = EngineFrame((bitstream,))
    assert frame_from_message(frame_to_message(plain, 1, plain.deadline_s)) == plain


async def test_a_decoder_that_the_bundle_lacks_costs_the_picture_and_no_task(
    tiny_bundle: Bundle, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    frame = EngineFrame(
        (encoder.encode(image),),
        ("looks",),
        PictureRequest(decoder="from-a-dream"),
    )
    outcome = await outcome_of(tiny_bundle, frame)
    assert outcome.picture_error is not None
    assert outcome.picture_error.reason == "unknown_decoder"
    assert outcome.analysis is not None
    assert list(outcome.analysis.tasks) == ["looks"]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_predicted_frame_is_analysed_by_what_it_was_decoded_to(
    tmp_path: Path, image: NDArray[np.uint8], elsewhere: bool
) -> None:
    bundle = small_bundle("null", tmp_path)
    edge, cloud = open_edge(bundle), open_cloud(bundle)
    key = edge.encode(image)
    reference = cloud.decode(key)
    changed = image.copy()
    changed[:32, :32] = 255 - changed[:32, :32]
    bitstream = edge.encode(changed, reference=reference)
    assert bitstream.reference is not None
    latents = cloud.decode(bitstream, reference=reference)
    frame = EngineFrame(
        (bitstream,), ("looks",), PictureRequest(), decoded=(Decoded(latents, cloud),)
    )
    if elsewhere:
        frame = frame_from_message(frame_to_message(frame, 1, frame.deadline_s))
    outcome = await outcome_of(bundle, frame)
    assert outcome.picture is not None
    shown = np.asarray(Image.open(io.BytesIO(outcome.picture.data)))
    assert np.array_equal(shown, cloud.open_reconstructor().reconstruct([latents])[0])
    alone = await outcome_of(bundle, EngineFrame((bitstream,), ("looks",)))
    assert alone.error is not None
    assert alone.error.reason == "reference_needed"


@pytest.mark.parametrize("named", [False, True])
async def test_a_picture_of_the_first_decoder_by_name_or_not(
    tiny_bundle: Bundle, encoder: EdgeEncoder, image: NDArray[np.uint8], named: bool
) -> None:
    name = tiny_bundle.manifest.pictures[0].name if named else ""
    frame = EngineFrame((encoder.encode(image),), (), PictureRequest(decoder=name))
    outcome = await asyncio.wait_for(outcome_of(tiny_bundle, frame), 60)
    assert outcome.picture is not None
    assert (outcome.picture.height, outcome.picture.width) == image.shape[:2]


async def test_the_last_picture_of_a_stream_is_there_to_be_painted_over(
    tmp_path: Path, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small_bundle("null", tmp_path)
    edge = open_edge(bundle)
    given: list[object] = []
    plain = JpegPictures.reconstruct

    def noted(self: JpegPictures, batch: Any, *rest: Any, before: Any = (), **more: Any) -> Any:
        given.extend(None if one is None else one[1][0, 0].tolist() for one in before)
        return plain(self, batch, *rest, **more)

    monkeypatch.setattr(JpegPictures, "reconstruct", noted)
    engine = await LocalEngine.open(bundle)
    for grey, stream in ((10, "a"), (20, "a"), (30, "b"), (40, "a"), (50, ""), (60, "")):
        bitstream = edge.encode(np.full_like(image, grey))
        await engine.submit(EngineFrame((bitstream,), picture=PictureRequest(), stream=stream))
    await engine.close()
    assert given == [None, [10] * 3, None, [20] * 3, None, None]


@pytest.mark.parametrize("named", [False, True])
async def test_the_first_decoders_picture_is_made_once_for_tasks_and_by_name(
    tmp_path: Path, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    bundle = small_bundle("null", tmp_path)
    made: list[int] = []
    plain = JpegPictures.reconstruct

    def noted(self: JpegPictures, batch: Any, *rest: Any, **more: Any) -> Any:
        made.append(len(batch))
        return plain(self, batch, *rest, **more)

    monkeypatch.setattr(JpegPictures, "reconstruct", noted)
    wished = PictureRequest(decoder=bundle.manifest.pictures[0].name if named else "")
    frame = EngineFrame((open_edge(bundle).encode(image),), ("looks",), wished)
    outcome = await outcome_of(bundle, frame)
    assert outcome.picture is not None
    assert outcome.analysis is not None
    assert list(outcome.analysis.tasks) == ["looks"]
    assert made == [1]


@pytest.mark.parametrize("advised", [False, True])
async def test_tasks_look_at_the_pictures_of_the_decoder_that_advice_names(
    tmp_path: Path, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, advised: bool
) -> None:
    """In a server, and of a file; what a person sees is of the first decoder."""
    bundle = small_bundle("lapped-lattice", tmp_path / "small", small_kinds("lapped-lattice")[-1])
    names = [one.name for one in bundle.manifest.pictures]
    assert len(names) == 2
    if advised:
        (tmp_path / "small" / ADVICE_NAME).write_bytes(Advice(task_decoder=names[1]).to_bytes())
        bundle = Bundle.load(tmp_path / "small")
    bitstream, cloud = open_edge(bundle).encode(image), open_cloud(bundle)
    latents, painter = [cloud.decode(bitstream)], cloud.open_reconstructor()
    first, other = (painter.reconstruct(latents, Rendering(name))[0] for name in names)
    assert (first != other).any()

    looks = Looks()
    engine = await LocalEngine.open(bundle, tasks={"looks": lambda: looks})
    outcome = await engine.submit(EngineFrame((bitstream,), ("looks",), PictureRequest()))
    await engine.close()
    assert outcome.picture is not None
    with Image.open(io.BytesIO(outcome.picture.data)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), first)
    monkeypatch.setattr(files, "open_task", lambda *_, **__: looks)
    analysed = files.Analyzer(["detection"], bundle=bundle.origin).analyze(bitstream.to_bytes())
    assert analysed.picture is not None
    np.testing.assert_array_equal(analysed.picture, first)
    assert len(looks.seen) == 2
    for seen in looks.seen:
        np.testing.assert_array_equal(seen, other if advised else first)


def test_last_pictures_take_no_more_than_they_may(image: NDArray[np.uint8]) -> None:
    last = LastPictures(max_bytes=2 * image.nbytes)
    for key in ("a", "b", "a", "c"):
        last.put(key, (None, image))  # type: ignore[arg-type]
    assert [key for key in "abc" if last.get(key)] == ["a", "c"]

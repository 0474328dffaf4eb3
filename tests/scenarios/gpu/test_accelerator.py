"""What an accelerator computes is what the CPU computes, within bounds.

Runs where CUDA is; ``FEATHERWIRE_TEST_DEVICE=cpu`` rehearses the suite without one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.speed.accelerator import frame_rates, rates_table
from cloud_server.engine import EngineFrame, LocalEngine
from cloud_server.tasks.detection import DetectionTask
from codec.base import CloudCodec, Rendering, open_cloud, open_edge
from codec.onnx import FeatureExtractor
from codec.settings import EXTRACTOR_FILES
from shared.bundle import Bundle, packaged_names
from shared.results import Detection, TaskResult
from shared.targets import RateTarget
from shared.weights import ModelStore
from shared.wire import PictureRequest

pytestmark = pytest.mark.gpu

DEVICE_VARIABLE = "FEATHERWIRE_TEST_DEVICE"
BUNDLES = [Bundle.load(name) for name in packaged_names()]
every = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda one: one.manifest.name)
with_pictures = pytest.mark.parametrize(
    "bundle", [one for one in BUNDLES if one.manifest.pictures], ids=lambda one: one.manifest.name
)
with_tails = pytest.mark.parametrize(
    "bundle", [one for one in BUNDLES if one.manifest.tasks], ids=lambda one: one.manifest.name
)
LEVELS, MEAN_LEVELS = 4, 0.1
"""By how many of 255 levels pixels may differ: one of a thousand by more than that, and all on
average."""
DRAWN_LEVELS = 2.0
"""On average, where a palette's entry is drawn from chances that differ in their last digits."""
SCORE, PLACE = 0.02, 2.0
"""By how much scores may differ, and how many pixels a box's sides."""


@pytest.fixture(scope="module")
def device() -> str:
    """The device under test."""
    named = os.environ.get(DEVICE_VARIABLE, "cuda")
    if named != "cpu" and not torch.cuda.is_available():
        pytest.skip(f"torch sees no CUDA device ({DEVICE_VARIABLE}=cpu rehearses on the CPU)")
    return named


@pytest.fixture(scope="module")
def runtime(device: str) -> str:
    """The device, where onnxruntime reaches it too."""
    if device != "cpu" and "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("onnxruntime has no CUDA provider: install the extra cloud-gpu")
    return device


def crops(photos: dict[str, NDArray[np.uint8]], count: int = 4) -> list[NDArray[np.uint8]]:
    """Photos of one size."""
    return [photo[:240, :320] for photo in list(photos.values())[:count]]


def pictures(bundle: Bundle) -> Iterator[tuple[str, bool]]:
    """The bundle's decoders, and whether palettes' entries are drawn for them."""
    for spec in bundle.manifest.pictures:
        yield spec.name, bundle.manifest.codec == "markov-palette" and spec.name != "faithful"


@with_pictures
def test_pictures_of_batches_are_those_of_the_cpu(
    device: str, photos: dict[str, NDArray[np.uint8]], bundle: Bundle
) -> None:
    edge = open_edge(bundle)
    cloud: CloudCodec[Any] = open_cloud(bundle)
    there, here = cloud.open_reconstructor(device=device), cloud.open_reconstructor()
    for state in (0, bundle.manifest.starts[0]):
        target = RateTarget(state=state)
        batch = [cloud.decode(edge.encode(photo, target)) for photo in crops(photos)]
        for decoder, drawn in pictures(bundle):
            how = Rendering(decoder, seed=5)
            found = np.stack(there.reconstruct(batch, how)).astype(int)
            away = np.abs(found - np.stack(here.reconstruct(batch, how)))
            assert away.mean() < (DRAWN_LEVELS if drawn else MEAN_LEVELS), (state, decoder)
            if not drawn:
                assert np.quantile(away, 0.999) <= LEVELS, (state, decoder)


@with_tails
def test_tails_find_what_they_find_on_the_cpu(
    runtime: str, photos: dict[str, NDArray[np.uint8]], bundle: Bundle
) -> None:
    edge = open_edge(bundle)
    cloud: CloudCodec[Any] = open_cloud(bundle)
    latents = [cloud.decode(edge.encode(photo)) for photo in crops(photos)]
    there, here = cloud.open_tails(device=runtime), cloud.open_tails()
    assert set(there) == set(bundle.manifest.tasks)
    for task, tail in there.items():
        for found, wanted in zip(tail.run(latents), here[task].run(latents), strict=True):
            assert_alike(found, wanted)


def assert_alike(found: TaskResult, wanted: TaskResult) -> None:
    """The same findings, but for rounding; those near the threshold may be there or not."""
    for one, other in ((found, wanted), (wanted, found)):
        for item in one.detections or ():
            if item.score > 0.5 + SCORE:
                assert any(_same(item, there) for there in other.detections or ()), item
        for best in (one.classes or ())[:1]:
            near = {there.class_name: there.score for there in other.classes or ()}
            assert abs(near[best.class_name] - best.score) < SCORE


def _same(one: Detection, other: Detection) -> bool:
    sides = np.array(list(one.box.model_dump().values()))
    others = np.array(list(other.box.model_dump().values()))
    return (
        one.class_name == other.class_name
        and abs(one.score - other.score) < SCORE
        and bool(np.abs(sides - others).max() < PLACE)
    )


@every
def test_extractors_give_the_features_of_the_cpu(
    runtime: str, photos: dict[str, NDArray[np.uint8]], bundle: Bundle
) -> None:
    extract = FeatureExtractor(bundle, precision="fp32")
    if runtime != "cpu":
        assert extract.providers[0] == "CUDAExecutionProvider"
    session = ort.InferenceSession(
        bundle.read(EXTRACTOR_FILES["fp32"]), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    side = 320
    photo = np.ascontiguousarray(crops(photos)[0])
    photo = np.pad(photo, ((0, side - 240), (0, 0), (0, 0)), "reflect")
    found = extract(photo)
    if bundle.manifest.scales_with_size:
        for scale, wanted in zip(names, session.run(names, {"image": photo}), strict=True):
            spread = float(np.std(wanted))
            assert float(np.abs(found[scale] - wanted).max()) < 0.02 * spread
    else:
        assert set(found) <= set(names)
        assert all(np.isfinite(values).all() for values in found.values())


async def test_a_server_answers_with_them(
    device: str, photos: dict[str, NDArray[np.uint8]]
) -> None:
    bundle = Bundle.load("fidelity")
    photo = crops(photos)[0]
    bitstream = open_edge(bundle).encode(photo)
    outcomes = []
    tasks = {"detection": lambda: DetectionTask(ModelStore())}
    for where in (device, "cpu"):
        engine = await LocalEngine.open(bundle, device=where, tasks=tasks)
        wished = PictureRequest(decoder=bundle.manifest.pictures[-1].name, seed=1)
        outcomes.append(await engine.submit(EngineFrame((bitstream,), ("detection",), wished)))
        await engine.close()
    for outcome in outcomes:
        assert outcome.error is None
        assert outcome.picture is not None
        assert outcome.analysis is not None
    there, here = (one.analysis.tasks["detection"] for one in outcomes if one.analysis)
    assert_alike(there, here)


def test_frames_a_second_are_measured(device: str, photos: dict[str, NDArray[np.uint8]]) -> None:
    """And printed, with ``-s``, as `python -m benchmarks --accelerator` writes them."""
    rows = frame_rates(crops(photos)[0], device, bundles=("fidelity",), batches=(1, 2), frames=4)
    assert {row["batch"] for row in rows} == {1, 2}
    assert all(row["frames_per_second"] > 0 for row in rows)
    table = rates_table(rows, device)
    print(table)
    assert table.count("\n") == len(rows) + 2

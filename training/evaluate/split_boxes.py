"""Average precision of a feature bundle's boxes at every state, from real bitstreams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import onnxruntime as ort

from codec.registry import open_codec
from codec.settings import FeatureSettings
from codec.tails.outputs import detections
from codec.tails.task import TailNetwork
from shared.bundle import Bundle
from shared.targets import RateTarget
from training.evaluate.average_precision import AveragePrecision
from training.evaluate.photos import EvaluationError, EvaluationPhoto

SCORE_THRESHOLD = 0.05


@dataclass(frozen=True)
class StateFigures:
    """Means over photos: whole files' bytes, bits per pixel of the photo's own area; encoding
    time on one core, the resized picture in memory.
    """

    state: int
    average_precision: float
    bytes: float
    bits_per_pixel: float
    encode_ms: float


def evaluate_boxes(
    bundle: Bundle,
    photos: Sequence[EvaluationPhoto],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[StateFigures]:
    """AP over all photos at every state, finest first.

    Raises EvaluationError ``no_annotations``.
    """
    truths = [photo.truth for photo in photos]
    if any(truth is None for truth in truths):
        raise EvaluationError("no_annotations", "photos without annotations have no AP")
    spec = (FeatureSettings.of(bundle).tails or ())[0]
    codec, tail = open_codec(bundle), TailNetwork(bundle, spec)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    edge = ort.InferenceSession(
        bundle.read("extractor.onnx"), options, providers=["CPUExecutionProvider"]
    )
    names = [scale.name for scale in FeatureSettings.of(bundle).scales]
    states = [row.state for row in bundle.manifest.states]
    found: dict[int, list[list[list[float]]]] = {state: [] for state in states}
    sums = {state: np.zeros(3) for state in states}
    for number, photo in enumerate(photos, 1):
        height, width = photo.pixels.shape[:2]
        placement = FeatureSettings.of(bundle).placement(width, height)
        assert placement is not None
        picture = placement.apply(photo.pixels)
        start = perf_counter()
        features = dict(zip(names, edge.run(names, {"image": picture}), strict=True))
        network_ms = 1e3 * (perf_counter() - start)
        for state in states:
            start = perf_counter()
            coded = codec.encode(features, width, height, RateTarget(state=state))
            taken = network_ms + 1e3 * (perf_counter() - start)
            sums[state] += [coded.file_bytes, 8 * coded.file_bytes / (width * height), taken]
            output = tail.run([codec.decode(coded)])[0]
            boxes = detections(output["boxes"], output["scores"], spec, placement, SCORE_THRESHOLD)
            found[state].append(
                [
                    [d.class_id, d.score, d.box.x_min, d.box.y_min,
                     d.box.x_max - d.box.x_min, d.box.y_max - d.box.y_min]
                    for d in boxes
                ]
            )  # fmt: skip
        progress(number, len(photos))
    every = np.ones((1, len(photos)))
    known = [truth or () for truth in truths]
    return [
        StateFigures(
            state,
            float(AveragePrecision(known, found[state])(every)[0]),
            *(float(value) for value in sums[state] / len(photos)),
        )
        for state in states
    ]

"""Milliseconds of a feature bundle's whole edge path beside what its rival would do there."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.speed import AVIF_QUALITY, ROUNDS, Job, timed
from codec.onnx import FeatureExtractor
from codec.registry import open_codec
from codec.settings import FeatureSettings
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle, packaged_names

Pixels = npt.NDArray[np.uint8]

FEATURE_REFERENCE = "AVIF speed 6 at the network's input size, resizing included"


def feature_bundles() -> dict[str, Bundle]:
    """Packaged bundles whose networks want pictures of one size, by name."""
    packaged = {name: Bundle.load(name) for name in packaged_names()}
    return {
        name: bundle for name, bundle in packaged.items() if not bundle.manifest.scales_with_size
    }


def feature_speeds(bundle: Bundle, pixels: Pixels, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Median milliseconds on one thread, and ratios to AVIF at the input's size in the same run.

    pixels: uint8 [H, W, 3], of any size; the bundle must bring pictures to one. Both resize the
    photo alike, and both times include it. The stages of ours are those of its finest chain.
    """
    placement = FeatureSettings.of(bundle).placement(pixels.shape[1], pixels.shape[0])
    if placement is None:
        raise ValueError("the bundle brings pictures to no size")
    encoder, extractor = EdgeEncoder(bundle, threads=1), FeatureExtractor(bundle, threads=1)
    seen = placement.apply(pixels)
    features = extractor(seen)

    def avif() -> bytes:
        buffer = io.BytesIO()
        picture = Image.fromarray(placement.apply(pixels))
        picture.save(buffer, "AVIF", quality=AVIF_QUALITY, speed=6, max_threads=1)
        return buffer.getvalue()

    finest = [bundle.manifest.finest_of(start) for start in bundle.manifest.starts]
    jobs: dict[str, Job] = {
        f"ours encode, state {state}": _encode(encoder, pixels, state) for state in finest
    }
    jobs["  of it resize"] = lambda: placement.apply(pixels)
    jobs[f"  of it network ({extractor.precision})"] = lambda: extractor(seen)
    codec, (height, width) = open_codec(bundle), pixels.shape[:2]
    jobs["  of it quantising, contexts and coding"] = lambda: codec.encode(features, width, height)
    jobs[FEATURE_REFERENCE] = avif
    return timed(jobs, FEATURE_REFERENCE, rounds)


def _encode(encoder: EdgeEncoder, pixels: Pixels, state: int) -> Job:
    return lambda: encoder.encode(pixels, state=state)

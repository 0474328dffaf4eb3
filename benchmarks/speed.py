"""Milliseconds on one core beside the rivals', interleaved in one run, with our stages apart."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cloud_server.engine.files import BitstreamDecoder
from codec.markov_palette.coding import MarkovPaletteCodec
from codec.onnx import FeatureExtractor
from codec.registry import open_codec
from codec.settings import FeatureSettings
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.preprocess import pad_to_multiple
from training.evaluate.rivals import Rival, rivals

Pixels = npt.NDArray[np.uint8]
Job = Callable[[], object]

REFERENCE = "AVIF encode, speed 6"
AVIF_QUALITY = 36
ROUNDS = 9


def speeds(bundle: Bundle, pixels: Pixels, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Median milliseconds of every job on one thread, and their ratio to AVIF's encoding.

    pixels: uint8 [H, W, 3]. Jobs take turns, so that a busy machine slows all of them alike.
    """
    return timed(_ours(bundle, pixels) | _theirs(pixels), REFERENCE, rounds)


def timed(jobs: Mapping[str, Job], reference: str, rounds: int) -> list[dict[str, Any]]:
    """Median milliseconds of every job, in turns, and their ratio to the job ``reference``."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for name, milliseconds in _interleaved(jobs, rounds):
        taken[name].append(milliseconds)
    beside = taken[reference]
    return [
        {
            "job": name,
            "milliseconds": round(statistics.median(values), 2),
            # The median of ratios within a round: what else the machine does cancels out.
            "relative_to_avif_encode": round(
                statistics.median(a / b for a, b in zip(values, beside, strict=True)), 3
            ),
        }
        for name, values in taken.items()
    ]


def speed_table(rows: list[dict[str, Any]], pixels: Pixels, reference: str = "AVIF encode") -> str:
    """The times as Markdown."""
    height, width = pixels.shape[:2]
    lines = [f"| {width}x{height}, one thread | ms | relative to {reference} |"]
    lines.append("| --- | ---: | ---: |")
    lines += [
        f"| {row['job']} | {row['milliseconds']} | {row['relative_to_avif_encode']} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _ours(bundle: Bundle, pixels: Pixels) -> dict[str, Job]:
    encoder, decoder = EdgeEncoder(bundle, threads=1), BitstreamDecoder(bundle)
    extractor, codec = FeatureExtractor(bundle, threads=1), open_codec(bundle)
    multiple = FeatureSettings.of(bundle).input_multiple
    coarsest = bundle.manifest.coarsest_state
    padded = pad_to_multiple(pixels, multiple)
    features = extractor(padded)
    middle = round(coarsest / 2)
    whole = encoder.encode(pixels)
    jobs: dict[str, Job] = {
        "ours encode, all states": lambda: encoder.encode(pixels),
        f"ours encode, state {middle}": lambda: encoder.encode(pixels, state=middle),
        "  of it pad": lambda: pad_to_multiple(pixels, multiple),
        f"  of it network ({extractor.precision})": lambda: extractor(padded),
    }
    if isinstance(codec, MarkovPaletteCodec):
        indices = codec.quantise(features)
        jobs["  of it quantise"] = lambda: codec.quantise(features)
        jobs["  of it contexts and coding, all states"] = lambda: list(
            codec.encode_indices(indices)
        )
    jobs["ours decode, all states"] = lambda: decoder.picture(whole)
    return jobs


def _theirs(pixels: Pixels) -> Mapping[str, Job]:
    by_name = {rival.name: rival for rival in rivals()}
    picture = Image.fromarray(pixels)
    avif = _avif(picture)
    jobs: dict[str, Job] = {
        REFERENCE: lambda: _avif(picture),
        "AVIF decode": lambda: np.asarray(Image.open(io.BytesIO(avif))),
    }
    for label, name, quality in (
        ("AVIF at half size, there and back", "avif-half", AVIF_QUALITY),
        ("JPEG XL, there and back", "jxl", 20),
        ("WebP, there and back", "webp", 20),
        ("JPEG, there and back", "jpeg", 20),
    ):
        if name in by_name:
            jobs[label] = _round_trip(by_name[name], pixels, quality)
    return jobs


def _round_trip(rival: Rival, pixels: Pixels, quality: int) -> Job:
    return lambda: rival.code(pixels, quality)


def _avif(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "AVIF", quality=AVIF_QUALITY, speed=6, max_threads=1)
    return buffer.getvalue()


def _interleaved(jobs: Mapping[str, Job], rounds: int) -> Iterator[tuple[str, float]]:
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            yield name, 1000 * (time.perf_counter() - started)

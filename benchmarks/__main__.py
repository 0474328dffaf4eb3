"""`make bench`: rate and distortion beside the rivals', and times as ratios in one run.

    python -m benchmarks [PHOTO|FOLDER|TAR ...] [--limit N]

Without photos it takes those that packages ship. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.demo.photos import write_photos
from cloud_server.decoding import BitstreamDecoder
from cloud_server.models import ModelStore
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.errors import ModelError
from training.evaluate.curves import BundleUnderTest, averages, markdown, measure
from training.evaluate.metrics import Metrics
from training.evaluate.rivals import rivals
from training.steps.photos import evaluation_photos

RESULTS = Path(__file__).parent / "results"
LONG_SIDE = 512


def main() -> int:
    """Measure, write results, print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bundle = Bundle.load()
    with tempfile.TemporaryDirectory() as folder:
        sources = arguments.photos or write_photos(Path(folder), lambda text: None)
        points = measure(
            islice(evaluation_photos(sources, LONG_SIDE), arguments.limit),
            BundleUnderTest(bundle),
            rivals(),
            metrics(),
            lambda name: print(name, file=sys.stderr),
        )
    times = speeds(bundle)
    rows = averages(points)
    arguments.output.mkdir(parents=True, exist_ok=True)
    document = {"bundle": bundle.id, "averages": rows, "times": times, "points": points}
    (arguments.output / "picture.json").write_text(json.dumps(document, indent=1) + "\n")
    text = f"Bundle `{bundle.id[:16]}`, {rows[0]['photos']} photos.\n\n" + markdown(rows)
    text += "\n" + times_table(times)
    (arguments.output / "picture.md").write_text(text)
    print(text)
    return 0


def metrics() -> Metrics:
    """With the LPIPS-like distance when its weights can be had."""
    store = ModelStore()
    try:
        for name in ("squeezenet-1.1", "lpips-squeeze"):
            store.fetch(name)
        return Metrics(store.path("squeezenet-1.1"), store.path("lpips-squeeze"))
    except ModelError as error:
        print(f"note: no LPIPS-like distance: {error.message}", file=sys.stderr)
        return Metrics()


def speeds(bundle: Bundle) -> list[dict[str, Any]]:
    """Median milliseconds for one 512x512 photo on one thread, interleaved with AVIF's."""
    from skimage import data

    pixels = np.ascontiguousarray(data.astronaut())
    encoder, decoder = EdgeEncoder(bundle, threads=1), BitstreamDecoder(bundle)
    bitstream = encoder.encode(pixels)
    avif = _save(pixels, "AVIF", quality=36, speed=6)
    jobs: dict[str, Callable[[], object]] = {
        "featherwire encode, finest state": lambda: encoder.encode(pixels),
        "featherwire decode, finest state": lambda: decoder.picture(bitstream),
        "AVIF encode, speed 6, quality 36": lambda: _save(pixels, "AVIF", quality=36, speed=6),
        "AVIF decode": lambda: np.asarray(Image.open(io.BytesIO(avif))),
        "WebP encode, quality 30": lambda: _save(pixels, "WEBP", quality=30),
        "JPEG encode, quality 30": lambda: _save(pixels, "JPEG", quality=30),
    }
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for name, milliseconds in _interleaved(jobs, rounds=7):
        taken[name].append(milliseconds)
    reference = statistics.median(taken["AVIF encode, speed 6, quality 36"])
    return [
        {
            "job": name,
            "milliseconds": round(statistics.median(values), 2),
            "relative_to_avif_encode": round(statistics.median(values) / reference, 3),
        }
        for name, values in taken.items()
    ]


def times_table(times: list[dict[str, Any]]) -> str:
    """The times as Markdown."""
    lines = ["| 512x512, one thread | ms | relative to AVIF encode |", "| --- | ---: | ---: |"]
    lines += [
        f"| {t['job']} | {t['milliseconds']} | {t['relative_to_avif_encode']} |" for t in times
    ]
    return "\n".join(lines) + "\n"


def _interleaved(jobs: dict[str, Callable[[], object]], rounds: int) -> Iterator[tuple[str, float]]:
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            yield name, 1000 * (time.perf_counter() - started)


def _save(pixels: np.ndarray, kind: str, **settings: int) -> bytes:
    buffer = io.BytesIO()
    extra: dict[str, Any] = {"max_threads": 1} if kind == "AVIF" else {}
    Image.fromarray(pixels).save(buffer, kind, **settings, **extra)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())

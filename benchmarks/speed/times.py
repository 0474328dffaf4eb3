"""Milliseconds on one core beside baselines', interleaved in one run, with our stages apart."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from codec.base import EdgeCodec, open_cloud, open_edge, trainer
from shared.bundle import Bundle, packaged_names
from shared.targets import RateTarget
from training.evaluate.baselines import Baseline, encode, picture_baselines

Pixels = npt.NDArray[np.uint8]
Job = Callable[[], object]
Say = Callable[[str], None]

REFERENCE = "AVIF encode, speed 6"
FEATURE_REFERENCE = "AVIF speed 6 at the network's input size, resizing included"
AVIF_QUALITY = 36
ROUNDS = 9
WHOLE = "whole"
REPAINT_ROUNDS = 3


def speeds(bundle: Bundle, pixels: Pixels, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Median milliseconds of every job on one thread, and their ratio to AVIF's encoding.

    pixels: uint8 [H, W, 3]. Jobs take turns, so that a busy machine slows all of them alike.
    """
    edge, cloud = open_edge(bundle), open_cloud(bundle)
    edge.load()
    reconstructor, whole = cloud.open_reconstructor(), edge.encode(pixels)
    middle = round(bundle.manifest.coarsest_state / 2)
    jobs: dict[str, Job] = {
        "ours encode, all states": lambda: edge.encode(pixels),
        f"ours encode, state {middle}": _encode(edge, pixels, middle),
        **_stages(bundle, pixels),
        "ours decode, all states": lambda: reconstructor.reconstruct([cloud.decode(whole)]),
    }
    return timed(jobs | _theirs(pixels), REFERENCE, rounds)


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
    uncut = trainer(bundle.manifest.codec).uncut(bundle)
    if uncut is None or uncut.input_size is None:
        raise ValueError("the bundle brings pictures to no size")
    edge = open_edge(bundle)
    edge.load()
    finest = [bundle.manifest.finest_of(start) for start in bundle.manifest.starts]
    jobs: dict[str, Job] = {
        f"ours encode, state {state}": _encode(edge, pixels, state) for state in finest
    }
    jobs |= _stages(bundle, pixels)
    jobs[FEATURE_REFERENCE] = lambda: encode(uncut.prepare(pixels), "avif", AVIF_QUALITY)
    return timed(jobs, FEATURE_REFERENCE, rounds)


def repaint_speeds(
    bundle: Bundle, pixels: Pixels, say: Say, rounds: int = REPAINT_ROUNDS
) -> list[dict[str, Any]]:
    """Median milliseconds of a picture whose last one is known, by the share that has changed: of
    the processor, for a large picture takes long enough for a busy machine to be seen in it.

    pixels: uint8 [H, W, 3]. What changes is one rectangle, in a corner or in the midst of the
    picture, turned upside down; the share of values is as the codec's network sees it. The
    pictures are compared with whole ones, and ``equal`` says what came of it. say: called with a
    line before each picture, so that nobody waits in the dark.
    """
    edge, cloud = open_edge(bundle), open_cloud(bundle)
    reconstructor = cloud.open_reconstructor()
    first = cloud.decode(edge.encode(pixels))
    (picture,) = reconstructor.reconstruct([first])
    frames = {WHOLE: first, "nothing": first}
    for share in (0.1, 0.5):
        for place in ("a corner", "the midst"):
            photo = _with_change(pixels, share, place)
            frames[f"{share:.0%}, {place}"] = cloud.decode(edge.encode(photo))
    taken: dict[str, list[float]] = {name: [] for name in frames}
    equal = {}
    for number in range(1 + rounds):
        for name, latents in frames.items():
            say(f"{pixels.shape[1]}x{pixels.shape[0]}, round {number} of {rounds}: {name}")
            before = () if name == WHOLE else ((first, picture),)
            began = time.process_time()
            (painted,) = reconstructor.reconstruct([latents], before=before)
            took_ms = 1000 * (time.process_time() - began)
            if number:
                taken[name].append(took_ms)
            else:  # the first round warms up, and is looked at
                (whole,) = reconstructor.reconstruct([latents])
                equal[name] = bool(np.array_equal(painted, whole))
    return [row | {"equal": equal[row["job"]]} for row in _rows(taken, WHOLE, "relative_to_whole")]


def repaint_table(rows: list[dict[str, Any]], pixels: Pixels) -> str:
    """The times as Markdown."""
    height, width = pixels.shape[:2]
    head = f"{width}x{height}, one thread: changed"
    lines = [f"| {head} | ms of the processor | of a whole picture's | equal |"]
    lines.append("| --- | ---: | ---: | --- |")
    lines += [
        f"| {row['job']} | {row['milliseconds']} | {row['relative_to_whole']} "
        f"| {'yes' if row['equal'] else 'NO'} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _with_change(pixels: Pixels, share: float, place: str) -> Pixels:
    """The picture with a rectangle of that share of its area turned upside down."""
    height, width = (round(side * share**0.5) for side in pixels.shape[:2])
    top, left = (0, 0)
    if place != "a corner":
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    changed = pixels.copy()
    changed[top : top + height, left : left + width] = pixels[
        top : top + height, left : left + width
    ][::-1, ::-1]
    return changed


def timed(jobs: Mapping[str, Job], reference: str, rounds: int) -> list[dict[str, Any]]:
    """Median milliseconds of every job, in turns, and their ratio to the job ``reference``."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for name, milliseconds in _interleaved(jobs, rounds):
        taken[name].append(milliseconds)
    return _rows(taken, reference, "relative_to_avif_encode")


def _rows(
    taken: Mapping[str, Sequence[float]], reference: str, relative: str
) -> list[dict[str, Any]]:
    """Medians, and those of ratios within a round: what else the machine does cancels out."""
    return [
        {
            "job": name,
            "milliseconds": round(statistics.median(values), 2),
            relative: round(
                statistics.median(a / b for a, b in zip(values, taken[reference], strict=True)), 3
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


def _encode(edge: EdgeCodec[Any, Any], pixels: Pixels, state: int) -> Job:
    return lambda: edge.encode(pixels, RateTarget(state=state))


def _stages(bundle: Bundle, pixels: Pixels) -> dict[str, Job]:
    stages = trainer(bundle.manifest.codec).stages(bundle, pixels)
    return {f"  of it {name}": job for name, job in stages.items()}


def _theirs(pixels: Pixels) -> dict[str, Job]:
    by_name = {baseline.name: baseline for baseline in picture_baselines()}
    avif = encode(pixels, "avif", AVIF_QUALITY)
    jobs: dict[str, Job] = {
        REFERENCE: lambda: encode(pixels, "avif", AVIF_QUALITY),
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


def _round_trip(baseline: Baseline, pixels: Pixels, quality: int) -> Job:
    return lambda: baseline.code(pixels, quality)


def _interleaved(jobs: Mapping[str, Job], rounds: int) -> Iterator[tuple[str, float]]:
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            yield name, 1000 * (time.perf_counter() - started)

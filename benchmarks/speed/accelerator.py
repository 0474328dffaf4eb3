"""Frames a second of decoding, reconstruction and tails on a device, in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from codec.base import (
    CloudCodec,
    Latents,
    Reconstructor,
    Rendering,
    Tail,
    open_cloud,
    open_edge,
)
from shared.bundle import Bundle, packaged_names

Pixels = npt.NDArray[np.uint8]
Job = Callable[[int], object]
"""Does its work so many times, in one batch."""
BATCHES = (1, 4, 16)
FRAMES = 64


def frame_rates(
    pixels: Pixels,
    device: str,
    *,
    bundles: Sequence[str] = (),
    batches: Sequence[int] = BATCHES,
    frames: int = FRAMES,
) -> list[dict[str, Any]]:
    """For every packaged bundle, job and batch, frames a second of one process.

    pixels: uint8 [H, W, 3], sent at all states. device: ``cuda``, or ``cpu`` beside it. bundles:
    names; none are all. frames: of which each figure is made, behind one batch to get ready.
    """
    rows = []
    for name in bundles or packaged_names():
        for job, run in _jobs(Bundle.load(name), pixels, device).items():
            for batch in batches:
                rate = batch * _rate(partial(run, batch), max(1, frames // batch), device)
                row = {"bundle": name, "job": job, "batch": batch}
                rows.append(row | {"frames_per_second": round(rate, 1)})
    return rows


def _jobs(bundle: Bundle, pixels: Pixels, device: str) -> dict[str, Job]:
    cloud: CloudCodec[Any] = open_cloud(bundle)
    bitstream = open_edge(bundle).encode(pixels)
    latents = cloud.decode(bitstream)
    jobs: dict[str, Job] = {
        "decode (always on the CPU)": lambda count: [cloud.decode(bitstream) for _ in range(count)]
    }
    if bundle.manifest.pictures:
        worker = cloud.open_reconstructor(device=device)
        for spec in bundle.manifest.pictures:
            how = Rendering(spec.name)
            jobs[f"picture, {spec.name}"] = partial(_painted, worker, latents, how)
    for task, tail in cloud.open_tails(device=device).items():
        jobs[task] = partial(_found, tail, latents)
    return jobs


def _painted(worker: Reconstructor[Any], latents: Latents, how: Rendering, count: int) -> object:
    return worker.reconstruct([latents] * count, how)


def _found(tail: Tail[Any], latents: Latents, count: int) -> object:
    return tail.run([latents] * count)


def rates_table(rows: Sequence[dict[str, Any]], device: str) -> str:
    """As Markdown; under the device's name."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "the CPU"
    lines = [f"| bundle | job, on {name} | batch | frames/s |", "| --- | --- | ---: | ---: |"]
    lines += [
        f"| `{row['bundle']}` | {row['job']} | {row['batch']} | {row['frames_per_second']} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _rate(job: Callable[[], object], times: int, device: str) -> float:
    """Runs a second, behind one that is not counted."""
    job()
    _wait(device)
    began = time.perf_counter()
    for _ in range(times):
        job()
    _wait(device)
    return times / (time.perf_counter() - began)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)

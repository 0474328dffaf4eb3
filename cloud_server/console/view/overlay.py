"""What was found in a frame, as shapes over its picture and as a table beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cloud_server.console.view import formats
from cloud_server.console.view.formats import cell, column, row
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import types_pb2
from shared.results import Thing, counts_of, things
from shared.results.rle import decode_mask
from shared.results.types import RleMask

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#f0e442", "#bb5566")
"""Distinct also for people who see red and green alike (Okabe and Ito)."""

FACE_COLOUR = 3

MASK_SIDE = 480
"""Pixels on the long side of the picture of masks: it is drawn over a larger one."""

MAX_SHAPES = 300
COLUMNS = [column("Found", wide=True), column("Task"), column("Score", number=True)]


def shapes(analysis: types_pb2.AnalysisResult) -> dict[str, Any]:
    """What ``outlines`` gives, and masks (a PNG)."""
    return {**outlines(analysis), "masks": masks_png(analysis)}


def outlines(analysis: types_pb2.AnalysisResult) -> dict[str, Any]:
    """Boxes and landmarks (flat: x, y, x, y ...), in pixels of the picture."""
    boxes = []
    for one in objects(analysis):
        box = one.box
        boxes.append(
            {
                "x": round(box.x_min, 1),
                "y": round(box.y_min, 1),
                "width": round(box.x_max - box.x_min, 1),
                "height": round(box.y_max - box.y_min, 1),
                "label": f"{one.class_name} {one.score:.2f}",
                "colour": colour(FACE_COLOUR if one.class_id is None else one.class_id),
            }
        )
    points = [
        round(value, 1)
        for task in analysis.tasks.values()
        for face in task.faces
        for point in _points(face)
        for value in point
    ]
    return {"boxes": boxes[:MAX_SHAPES], "points": points}


def objects(analysis: types_pb2.AnalysisResult) -> list[Thing]:
    """What has a box, each once however many tasks have found it."""
    return things(task for _, task in sorted(analysis.tasks.items()))


def findings(
    analysis: types_pb2.AnalysisResult, failed: Mapping[str, types_pb2.Error] | None = None
) -> list[dict[str, Any]]:
    """The same for eyes that do not see the picture, best first. failed: tasks, with why."""
    found = [(one.score, ", ".join(one.tasks), one.class_name) for one in objects(analysis)]
    for task_name, task in analysis.tasks.items():
        found += [(one.score, task_name, one.class_name) for one in task.classes]
        found += [(one.share, task_name, f"{one.class_name}, share") for one in task.regions]
    found.sort(key=lambda one: -one[0])
    without = [
        row(
            name, [cell(f"failed: {error.message}", tone="bad"), cell(name, tone="muted"), cell("")]
        )
        for name, error in sorted((failed or {}).items())
    ]
    return without + [
        row(str(number), [cell(name), cell(task, tone="muted"), cell(f"{score:.2f}")])
        for number, (score, task, name) in enumerate(found[:MAX_SHAPES])
    ]


def nothing(outcome: types_pb2.FrameOutcome) -> str:
    """Why there are no findings."""
    if outcome.WhichOneof("outcome") == "error":
        return f"This frame failed: {outcome.error.message}"
    if not outcome.analysis.tasks:
        return "No task was asked of this frame."
    return "Nothing was found in this frame."


def in_words(analysis: types_pb2.AnalysisResult) -> str:
    """What a screen reader reads out for the picture."""
    names = counts_of(task for _, task in sorted(analysis.tasks.items()))
    for task in analysis.tasks.values():
        for one in task.classes[:1]:
            names[f"{one.class_name} ({one.score:.2f})"] = 1
        for region in task.regions[:3]:
            names[f"{region.class_name} {formats.share(region.share)}"] = 1
    if not names:
        return "nothing was found"
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items())


def scores(analysis: types_pb2.AnalysisResult) -> list[float]:
    """Of everything found."""
    found = [one.score for one in objects(analysis)]
    return found + [one.score for task in analysis.tasks.values() for one in task.classes]


def colour(class_id: int) -> str:
    """Of a class."""
    return COLOURS[class_id % len(COLOURS)]


def has_masks(analysis: types_pb2.AnalysisResult) -> bool:
    """Whether ``masks_png`` would draw anything, but for masks that are damaged."""
    return next(_masked(analysis), None) is not None


def masks_png(analysis: types_pb2.AnalysisResult) -> str:
    """All masks as one half-transparent PNG in a data URL; empty when there are none."""
    canvas: NDArray[np.uint8] | None = None
    for number, message in _masked(analysis):
        mask = RleMask(size=(message.height, message.width), counts=message.counts)
        try:
            whole = decode_mask(mask)
        except FeatherwireError:
            continue  # a damaged mask must not take the others with it
        step = max(1, max(whole.shape) // MASK_SIDE)
        small = whole[::step, ::step]
        if canvas is None:
            canvas = np.zeros((*small.shape, 4), dtype=np.uint8)
        if canvas.shape[:2] == small.shape:
            canvas[small] = (*bytes.fromhex(colour(number)[1:]), 120)
    if canvas is None:
        return ""
    file = io.BytesIO()
    Image.fromarray(canvas, "RGBA").quantize(16).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _masked(analysis: types_pb2.AnalysisResult) -> Iterator[tuple[int, types_pb2.RleMask]]:
    for task in analysis.tasks.values():
        for instance in task.instances:
            yield instance.class_id, instance.mask
        for region in task.regions:
            yield region.class_id, region.mask


def _points(face: types_pb2.Face) -> Iterator[tuple[float, float]]:
    """Key points, then landmarks, in pixels."""
    for key_point in face.key_points:
        yield key_point.x, key_point.y
    for landmark in face.landmarks:
        yield landmark.x, landmark.y

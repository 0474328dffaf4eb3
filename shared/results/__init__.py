"""What tasks find, and how far two findings agree. Values only; nothing here runs a model."""

from shared.results.agreement import Agreement, agreement, box_iou
from shared.results.counting import FACE, Thing, counts_of, things
from shared.results.finding import (
    DEFAULT_THRESHOLD,
    Stopwatch,
    check_threshold,
    clip_boxes,
    nms,
)
from shared.results.rle import (
    complete_mask,
    decode_mask,
    decode_runs,
    encode_mask,
    mask_box,
    mask_iou,
)
from shared.results.summary import summarise
from shared.results.types import (
    AnalysisResult,
    Box,
    Classification,
    Detection,
    Face,
    Found,
    Instance,
    ModelInfo,
    Region,
    RleMask,
    TaskResult,
)

__all__ = [
    "DEFAULT_THRESHOLD",
    "FACE",
    "Agreement",
    "AnalysisResult",
    "Box",
    "Classification",
    "Detection",
    "Face",
    "Found",
    "Instance",
    "ModelInfo",
    "Region",
    "RleMask",
    "Stopwatch",
    "TaskResult",
    "Thing",
    "agreement",
    "box_iou",
    "check_threshold",
    "clip_boxes",
    "complete_mask",
    "counts_of",
    "decode_mask",
    "decode_runs",
    "encode_mask",
    "mask_box",
    "mask_iou",
    "nms",
    "summarise",
    "things",
]

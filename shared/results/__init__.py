"""What tasks find, and how far two findings agree. Values only; nothing here runs a model."""

from shared.results.agreement import Agreement, agreement, box_iou
from shared.results.rle import decode_mask, decode_runs, mask_area, mask_iou
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
    summarise,
)

__all__ = [
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
    "TaskResult",
    "agreement",
    "box_iou",
    "decode_mask",
    "decode_runs",
    "mask_area",
    "mask_iou",
    "summarise",
]

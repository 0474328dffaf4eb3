"""Messages for the tests of the wire."""

from __future__ import annotations

from shared.proto.featherwire.v1 import types_pb2 as pb
from shared.results import (
    AnalysisResult,
    Box,
    Classification,
    Detection,
    Face,
    Instance,
    ModelInfo,
    Region,
    RleMask,
    TaskResult,
)
from shared.wire import FrameOutcome, Picture, PictureEncoding
from shared.wire.results import outcome_to_message


def analysis_message() -> pb.FrameOutcome:
    """A success with each kind of output and a picture."""
    detection = Detection(
        box=Box(x_min=0, y_min=0, x_max=1, y_max=1), class_id=1, class_name="x", score=0.5
    )
    instance = Instance(
        **{**dict(detection), "box": detection.box}, mask=RleMask(size=(32, 64), counts="00")
    )
    face = Face(box=detection.box, score=1, key_points=((0, 0),), landmarks=((0, 0, 0),))
    model = ModelInfo(name="m", version="1", licence="l", sha256="0" * 64)
    tabby, lynx = (
        Classification(class_id=n, class_name="x", score=score) for n, score in ((1, 0.7), (2, 0.1))
    )
    sky = Region(class_id=0, class_name="sky", share=1, mask=instance.mask)
    results = {
        "detection": TaskResult(task="detection", model=[model], detections=[detection]),
        "segmentation": TaskResult(task="segmentation", model=[model], instances=[instance]),
        "landmarks": TaskResult(task="landmarks", model=[model], faces=[face]),
        "classification": TaskResult(task="classification", model=[model], classes=[tabby, lynx]),
        "parts": TaskResult(task="parts", model=[model], regions=[sky]),
    }
    analysis = AnalysisResult(
        width=64, height=32, payload_bytes=1, bits_per_pixel=1, tasks=results,
        milliseconds={"total": 1.0},
    )  # fmt: skip
    picture = Picture(PictureEncoding.PNG, 64, 32, b"png")
    return outcome_to_message(FrameOutcome(analysis=analysis, picture=picture))

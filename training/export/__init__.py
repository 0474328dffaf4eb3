"""The extractor as ONNX files for the edge: float32, and static int8."""

from training.export.calibration import Calibration, calibrate
from training.export.fp32 import extractor_to_onnx
from training.export.int8 import extractor_to_int8_onnx

__all__ = ["Calibration", "calibrate", "extractor_to_int8_onnx", "extractor_to_onnx"]

"""Tails: the rest of a network that was cut in two, run on decoded features.

latents ── TailNetwork (ONNX) ── outputs ── boxes | classes | labels ── TaskResult
"""

from codec.tails.task import TailTask, open_tails

__all__ = ["TailTask", "open_tails"]

"""Tails: the rest of a network that was cut in two, run on decoded features.

latents ── TailNetwork (ONNX) ── outputs ── boxes | classes | labels ── TaskResult
"""

from codec.tails.task import DEFAULT_THRESHOLD, TailTask, open_tails

__all__ = ["DEFAULT_THRESHOLD", "TailTask", "open_tails"]

"""The .fwf container: one picture as layers of bytes, coarse to fine. See FORMAT.md."""

from __future__ import annotations

from shared.bitstream.container import FORMAT_VERSION, MAGIC, Bitstream, Layer, PartialLayer

__all__ = ["FORMAT_VERSION", "MAGIC", "Bitstream", "Layer", "PartialLayer"]

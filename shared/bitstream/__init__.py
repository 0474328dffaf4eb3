"""The .fwf container: one picture as layers of bytes, coarse to fine. See FORMAT.md."""

from __future__ import annotations

from shared.bitstream.container import FORMAT_VERSION, FORMAT_VERSIONS, Bitstream, is_file
from shared.bitstream.layers import Layer, PartialLayer, Reference

__all__ = [
    "FORMAT_VERSION",
    "FORMAT_VERSIONS",
    "Bitstream",
    "Layer",
    "PartialLayer",
    "Reference",
    "is_file",
]

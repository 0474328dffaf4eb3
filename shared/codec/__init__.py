"""Codecs: features to layers on the edge, layers to latents in the cloud."""

from __future__ import annotations

from shared.codec.base import Codec, Latents
from shared.codec.lattice import LatticeCodec
from shared.codec.markov_palette import MarkovPaletteCodec
from shared.codec.rate import RateTarget
from shared.codec.regions import Region, Regions
from shared.codec.registry import open_codec, register_codec

__all__ = [
    "Codec",
    "Latents",
    "LatticeCodec",
    "MarkovPaletteCodec",
    "RateTarget",
    "Region",
    "Regions",
    "open_codec",
    "register_codec",
]

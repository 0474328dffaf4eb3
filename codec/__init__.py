"""Codecs: a folder each, found by the name in a bundle's manifest; see :mod:`codec.base`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codec.base import (
        PLAIN,
        CloudCodec,
        EdgeCodec,
        EdgeOptions,
        Latents,
        Rendering,
        codec_names,
        no_picture,
        open_cloud,
        open_edge,
        trainer,
    )
    from shared.targets import FINEST, RateTarget, Region, Regions

__all__ = [
    "FINEST",
    "PLAIN",
    "CloudCodec",
    "EdgeCodec",
    "EdgeOptions",
    "Latents",
    "RateTarget",
    "Region",
    "Regions",
    "Rendering",
    "codec_names",
    "no_picture",
    "open_cloud",
    "open_edge",
    "trainer",
]

_TARGETS = frozenset({"FINEST", "RateTarget", "Region", "Regions"})


def __getattr__(name: str) -> object:
    """Names are looked up when they are used: networks are fitted on machines with torch alone."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "shared.targets" if name in _TARGETS else "codec.base"
    return getattr(importlib.import_module(module), name)

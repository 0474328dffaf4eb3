"""The Markov palette on the edge."""

from __future__ import annotations

from codec.base import EdgeOptions
from codec.features import FeatureEdge
from codec.markov_palette.coding import MarkovPaletteCodec
from shared.bundle import Bundle


def open_edge(bundle: Bundle, options: EdgeOptions) -> FeatureEdge:
    """See :func:`codec.base.open_edge`."""
    return FeatureEdge(bundle, MarkovPaletteCodec(bundle), options)

"""Lapped pictures on the edge."""

from __future__ import annotations

from codec.base import EdgeOptions
from codec.features import FeatureEdge
from codec.lapped_lattice.coding import LappedCodec
from shared.bundle import Bundle


def open_edge(bundle: Bundle, options: EdgeOptions) -> FeatureEdge:
    """See :func:`codec.base.open_edge`."""
    return FeatureEdge(bundle, LappedCodec(bundle), options)

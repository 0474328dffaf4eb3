"""The lattice palette on the edge."""

from __future__ import annotations

from codec.base import EdgeOptions
from codec.features import FeatureEdge
from codec.lattice_palette.coding import LatticeCodec
from shared.bundle import Bundle


def open_edge(bundle: Bundle, options: EdgeOptions) -> FeatureEdge:
    """See :func:`codec.base.open_edge`."""
    return FeatureEdge(bundle, LatticeCodec(bundle), options)

"""The lattice palette on the edge."""

from __future__ import annotations

from codec.base import EdgeOptions
from codec.halves import FeatureEdge
from codec.lattice_palette.codec import LatticeCodec
from shared.bundle import Bundle


def open_edge(bundle: Bundle, options: EdgeOptions) -> FeatureEdge:
    """See :func:`codec.base.open_edge`."""
    return FeatureEdge(bundle, LatticeCodec(bundle), options)

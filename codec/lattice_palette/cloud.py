"""The lattice palette in the cloud: features for tails; it makes no pictures."""

from __future__ import annotations

from codec.features import FeatureCloud
from codec.lattice_palette.coding import LatticeCodec
from shared.bundle import Bundle


def open_cloud(bundle: Bundle) -> FeatureCloud:
    """See :func:`codec.base.open_cloud`."""
    return FeatureCloud(bundle, LatticeCodec(bundle))

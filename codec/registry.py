"""The coder of features behind a codec of features."""

from __future__ import annotations

from typing import Any

from codec.base import open_edge
from codec.layered import ChainsCodec
from shared.bundle import Bundle


def open_codec(bundle: Bundle) -> ChainsCodec[Any]:
    """What codes the features of a bundle. Raises BundleError as :func:`codec.open_edge` does."""
    coder: ChainsCodec[Any] = open_edge(bundle).coder
    return coder

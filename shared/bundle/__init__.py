"""Bundles: what edge and cloud must agree on, under one id."""

from __future__ import annotations

from shared.bundle.bundle import Bundle, bundle_for, packaged_bundle_of, packaged_names
from shared.bundle.manifest import (
    BundleFile,
    Manifest,
    PictureSpec,
    Side,
    StateSpec,
    canonical_json,
)

__all__ = [
    "Bundle",
    "BundleFile",
    "Manifest",
    "PictureSpec",
    "Side",
    "StateSpec",
    "bundle_for",
    "canonical_json",
    "packaged_bundle_of",
    "packaged_names",
]

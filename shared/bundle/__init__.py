"""Bundles: what edge and cloud must agree on, under one id."""

from __future__ import annotations

from shared.bundle.bundle import Bundle
from shared.bundle.manifest import (
    BUNDLE_FORMAT,
    BundleFile,
    Manifest,
    ScaleSpec,
    canonical_json,
)

__all__ = ["BUNDLE_FORMAT", "Bundle", "BundleFile", "Manifest", "ScaleSpec", "canonical_json"]

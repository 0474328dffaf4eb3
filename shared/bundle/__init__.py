"""Bundles: what edge and cloud must agree on, under one id."""

from __future__ import annotations

from shared.bundle.bundle import Bundle
from shared.bundle.manifest import (
    BundleFile,
    Manifest,
    ScaleSpec,
    canonical_json,
)

__all__ = ["Bundle", "BundleFile", "Manifest", "ScaleSpec", "canonical_json"]

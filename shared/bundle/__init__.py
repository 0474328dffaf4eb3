"""Bundles: what edge and cloud must agree on, under one id."""

from __future__ import annotations

from shared.bundle.bundle import Bundle
from shared.bundle.manifest import (
    BundleFile,
    Manifest,
    ScaleSpec,
    canonical_json,
)
from shared.bundle.psnr import PsnrModel, PsnrRow

__all__ = [
    "Bundle",
    "BundleFile",
    "Manifest",
    "PsnrModel",
    "PsnrRow",
    "ScaleSpec",
    "canonical_json",
]

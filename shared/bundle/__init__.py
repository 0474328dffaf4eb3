"""Bundles: what edge and cloud must agree on, under one id."""

from __future__ import annotations

from shared.bundle.bundle import Bundle
from shared.bundle.manifest import (
    BundleFile,
    ChainSpec,
    Manifest,
    ResizeSpec,
    ScaleSpec,
    StateSpec,
    TailClass,
    TailModel,
    TailSpec,
    canonical_json,
)
from shared.bundle.packaged import bundle_for, packaged_bundle_of, packaged_names
from shared.bundle.psnr import PsnrModel, PsnrRow

__all__ = [
    "Bundle",
    "BundleFile",
    "ChainSpec",
    "Manifest",
    "PsnrModel",
    "PsnrRow",
    "ResizeSpec",
    "ScaleSpec",
    "StateSpec",
    "TailClass",
    "TailModel",
    "TailSpec",
    "bundle_for",
    "canonical_json",
    "packaged_bundle_of",
    "packaged_names",
]

"""Bundles: what edge and cloud must agree on, under one id."""

from __future__ import annotations

from shared.bundle.advice import ADVICE_NAME, Advice, ScoreThresholds
from shared.bundle.bundle import (
    Bundle,
    bundle_for,
    packaged_bundle_of,
    packaged_names,
)
from shared.bundle.manifest import (
    BundleFile,
    Manifest,
    PictureSpec,
    Side,
    StateSpec,
    canonical_json,
)

__all__ = [
    "ADVICE_NAME",
    "Advice",
    "Bundle",
    "BundleFile",
    "Manifest",
    "PictureSpec",
    "ScoreThresholds",
    "Side",
    "StateSpec",
    "bundle_for",
    "canonical_json",
    "packaged_bundle_of",
    "packaged_names",
]

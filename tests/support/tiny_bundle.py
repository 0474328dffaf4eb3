"""The Markov palette's small bundle, under the names that tests know, and one with a PSNR model."""

from __future__ import annotations

from pathlib import Path

from codec.markov_palette.train.small import (
    DEPTHS,
    PLANES,
    SCALES,
    STATES,
    codec_files,
    tiny_manifest,
    tiny_palette,
)
from codec.markov_palette.train.small import small_bundle as make_tiny_bundle
from codec.settings import PsnrModel, PsnrRow, create_bundle, with_settings
from shared.bundle import Bundle

__all__ = [
    "DEPTHS",
    "PLANES",
    "SCALES",
    "STATES",
    "codec_files",
    "make_codec_bundle",
    "make_tiny_bundle",
    "tiny_manifest",
    "tiny_palette",
    "with_model",
]


def make_codec_bundle(folder: Path) -> Bundle:
    """A bundle with palette and contexts only: enough for bitstreams, no networks."""
    return create_bundle(folder, tiny_manifest(), codec_files())


def with_model(bundle: Bundle, folder: Path) -> Bundle:
    """The tiny bundle with a PSNR model: decibels of the distortion of both scales."""
    rows = tuple(
        PsnrRow(intercept=-2.0, distortion={"semantic": 1.0, "texture": 0.5}, detail=(0.1, 0, 0),
                margin_db=0.5)
        for _ in bundle.manifest.states
    )  # fmt: skip
    manifest = with_settings(bundle.manifest, psnr_model=PsnrModel(rows=rows, share=0.9))
    return create_bundle(folder, manifest, {n: bundle.read(n) for n in bundle.manifest.files})

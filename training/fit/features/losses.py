"""The feature-matching losses by name, from weights files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from training.fit.features import classifier, detector
from training.fit.features.distance import FeatureDistance

LOSSES: dict[str, type[detector.DetectorDistance] | type[classifier.ClassifierDistance]] = {
    "detector": detector.DetectorDistance,
    "classifier": classifier.ClassifierDistance,
}
MODELS = {"detector": detector.WEIGHTS, "classifier": classifier.WEIGHTS}
"""The model store's names of their weights."""


def load_losses(files: Mapping[str, Path]) -> dict[str, FeatureDistance]:
    """The losses named by the keys, each from its safetensors file.

    Raises KeyError for a name that is not in ``LOSSES`` and for a file of another network.
    """
    return {name: LOSSES[name](load_file(file)) for name, file in files.items()}

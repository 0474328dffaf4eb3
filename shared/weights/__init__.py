"""Model weights by name, checked by SHA-256: ``ModelStore().path("face-mesh-468")``."""

from shared.weights.catalogue import (
    CATALOGUE,
    ModelEntry,
    PackageSource,
    UrlSource,
    load_catalogue,
)
from shared.weights.store import ModelStatus, ModelStore

__all__ = [
    "CATALOGUE",
    "ModelEntry",
    "ModelStatus",
    "ModelStore",
    "PackageSource",
    "UrlSource",
    "load_catalogue",
]

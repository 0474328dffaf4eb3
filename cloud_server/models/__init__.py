"""Model weights by name, checked by SHA-256: ``ModelStore().path("face-mesh-468")``."""

from cloud_server.models.catalogue import CATALOGUE
from cloud_server.models.entry import ModelEntry, PackageSource, UrlSource, load_catalogue
from cloud_server.models.store import ModelStatus, ModelStore

__all__ = [
    "CATALOGUE",
    "ModelEntry",
    "ModelStatus",
    "ModelStore",
    "PackageSource",
    "UrlSource",
    "load_catalogue",
]

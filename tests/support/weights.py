"""Weights of no network, and their entries in a catalogue."""

from __future__ import annotations

import hashlib

from shared.weights import ModelEntry, PackageSource, UrlSource

WEIGHTS = bytes(range(256)) * 40


LABELS = b"cat\ndog\n"


PACKAGE = "featherwire-test-weights"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_entry(name: str, data: bytes, source: PackageSource | UrlSource, **changes) -> ModelEntry:
    values = {
        "name": name,
        "version": "1",
        "file": f"{name}.bin",
        "sha256": sha256(data),
        "file_bytes": len(data),
        "licence": "MIT",
        "notice": "Made by a test.",
        "purpose": "nothing",
        "source": source,
        "default": True,
    }
    return ModelEntry(**(values | changes))

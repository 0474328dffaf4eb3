"""Bundles besides the tiny one, as packed folders of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from shared.bundle import Bundle

PADDING_BYTES = 3 * 2**20


@pytest.fixture(scope="session")
def remade(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """``remade("name", extractor=b"...")``: the tiny bundle under another name, some files changed.

    A file of noise makes its zip some chunks long.
    """

    def make(name: str, **files: bytes) -> Bundle:
        contents = {file: tiny_bundle.read(file) for file in tiny_bundle.manifest.files}
        noise = np.random.default_rng(len(name)).integers(0, 256, PADDING_BYTES, np.uint8)
        contents["notes.bin"] = noise.tobytes()
        for stem, data in files.items():
            (full,) = [file for file in contents if file.split(".")[0] == stem]
            contents[full] = data
        manifest = tiny_bundle.manifest.model_copy(update={"name": name})
        return Bundle.create(tmp_path_factory.mktemp(name) / name, manifest, contents)

    return make


@pytest.fixture(scope="session")
def other(remade: Callable[..., Bundle]) -> Bundle:
    """One that works, and is not the server's wanted one."""
    return remade("other")

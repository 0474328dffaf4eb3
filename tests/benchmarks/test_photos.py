"""The photos that the documents' commands name can be had."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.photos import write_examples
from tests.support.photos import PHOTO_FILES


def test_they_have_the_names_of_the_documents(tmp_path: Path) -> None:
    paths = write_examples(tmp_path)
    assert {path.name for path in paths} == set(PHOTO_FILES)
    assert {path.name for path in (tmp_path / "photos").iterdir()} == set(PHOTO_FILES)
    for path in paths:
        assert Image.open(path).format == "JPEG"

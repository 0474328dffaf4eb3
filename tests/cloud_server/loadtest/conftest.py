"""What these tests share with the tests of the wire."""

from pathlib import Path

import pytest

from edge_client.encoder import EdgeEncoder


@pytest.fixture
def stream(encoder: EdgeEncoder, image: object, tmp_path: Path) -> Path:
    """A .fwf file of the tiny bundle."""
    file = tmp_path / "stream.fwf"
    file.write_bytes(encoder.encode(image, state=4).to_bytes())  # type: ignore[arg-type]
    return file

"""What these tests share with the tests of the wire."""

from pathlib import Path

import pytest

from cloud_server.auth.development_ca import make_development_ca
from tests.support.access import Keys
from tests.wire.conftest import encoder, image, start_server, tiny_bundle

__all__ = ["encoder", "image", "start_server", "tiny_bundle"]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Certificates, and a data folder for tokens."""
    make_development_ca(tmp_path / "keys")
    return Keys(tmp_path / "keys", tmp_path / "auth-data")

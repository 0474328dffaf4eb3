from __future__ import annotations

from tests.wire.conftest import start_server, tiny_bundle

__all__ = ["start_server", "tiny_bundle"]

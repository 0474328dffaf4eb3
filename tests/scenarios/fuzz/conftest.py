"""What these tests share with the tests of the wire."""

from tests.wire.conftest import encoder, image, start_server, tiny_bundle

__all__ = ["encoder", "image", "start_server", "tiny_bundle"]

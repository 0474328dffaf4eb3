"""What these tests share with those of the wire and of tokens."""

from tests.auth.conftest import keys
from tests.wire.conftest import encoder, image, start_server, tiny_bundle

__all__ = ["encoder", "image", "keys", "start_server", "tiny_bundle"]

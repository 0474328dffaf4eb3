"""What these tests share with those of the wire."""

from tests.wire.conftest import encoder, feature_bundle, image, start_server, tiny_bundle

__all__ = ["encoder", "feature_bundle", "image", "start_server", "tiny_bundle"]

"""What these tests share with the tests of the wire and of the log."""

from tests.log.conftest import postgres_cluster
from tests.support.crashes import servers, variables
from tests.wire.conftest import encoder, image, start_server, tiny_bundle

__all__ = [
    "encoder",
    "image",
    "postgres_cluster",
    "servers",
    "start_server",
    "tiny_bundle",
    "variables",
]

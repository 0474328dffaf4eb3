"""What these tests share with the tests of the wire and of the log."""

from tests.log.conftest import postgres_cluster
from tests.support.crashes import servers, variables
from tests.wire.conftest import tiny_bundle

__all__ = [
    "postgres_cluster",
    "servers",
    "tiny_bundle",
    "variables",
]

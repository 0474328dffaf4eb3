"""Databases of both kinds, as the tests of the log have them."""

from collections.abc import Iterator

import pytest

import cloud_server.database.storage  # noqa: F401  # all tables
from cloud_server.database import Database
from tests.log.conftest import postgres_cluster, url

__all__ = ["postgres_cluster", "url"]


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """An open database with every table."""
    opened = Database(url, lock_wait_s=1.0)
    yield opened
    opened.close()

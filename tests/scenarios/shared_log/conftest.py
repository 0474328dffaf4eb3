"""Servers that share one PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.bundle import Bundle
from tests.log.conftest import postgres_cluster
from tests.support import postgres
from tests.support.crashes import Servers
from tests.wire.conftest import encoder, image, start_server, tiny_bundle

__all__ = ["encoder", "image", "postgres_cluster", "start_server", "tiny_bundle"]


@pytest.fixture
def database(postgres_cluster: postgres.Cluster) -> str:
    """URL of an empty database."""
    return postgres_cluster.database()


@pytest.fixture
def make_servers(
    tiny_bundle: Bundle, database: str, tmp_path: Path
) -> Iterator[Callable[[str], Servers]]:
    """A place for a server, by name: each can be started, killed and started again."""
    made: list[Servers] = []

    def make(name: str) -> Servers:
        folder = tmp_path / name
        folder.mkdir()
        variables = {"FEATHERWIRE_DATABASE": database, "FEATHERWIRE_SHARED_LOG": "true"}
        made.append(Servers(tiny_bundle, variables, folder))
        return made[-1]

    yield make
    for one in made:
        one.close()

"""Servers that share one PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.bundle import Bundle
from tests.support.crashes import Servers


@pytest.fixture
def make_servers(
    tiny_bundle: Bundle, postgres_url: str, tmp_path: Path
) -> Iterator[Callable[[str], Servers]]:
    """A place for a server, by name: each can be started, killed and started again."""
    made: list[Servers] = []

    def make(name: str) -> Servers:
        folder = tmp_path / name
        folder.mkdir()
        variables = {"FEATHERWIRE_DATABASE": postgres_url, "FEATHERWIRE_SHARED_LOG": "true"}
        made.append(Servers(tiny_bundle, variables, folder))
        return made[-1]

    yield make
    for one in made:
        one.close()

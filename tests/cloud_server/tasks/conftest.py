"""Real tasks with real weights; one instance a session, since loading takes longer than running."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from cloud_server.tasks import Task, open_task
from shared.weights import ModelStore


@pytest.fixture(scope="session")
def task(real_store: ModelStore) -> Callable[[str], Task]:
    return cache(lambda name: open_task(name, real_store))

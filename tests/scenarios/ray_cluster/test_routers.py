"""Settings of Ray Serve that several threads build at once. Needs Ray, and no cluster."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest


def test_settings_are_built_in_several_threads_at_once() -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'featherwire[ray]'")
    from ray.serve.config import RequestRouterConfig

    from cloud_server.engine.ray.routers import serialise_one_at_a_time

    serialise_one_at_a_time()
    serialise_one_at_a_time()  # and not one inside the other
    switched_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            built = list(threads.map(lambda _: RequestRouterConfig(), range(400)))
    finally:
        sys.setswitchinterval(switched_s)
    assert all(one.get_request_router_class() for one in built)

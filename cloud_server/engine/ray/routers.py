"""Ray Serve's settings, which it builds safely in one thread only, built safely in several.

Serve serialises the class of a deployment's router with each ``RequestRouterConfig``: it notes the
class's module with cloudpickle, for the whole process, and strikes it off again. Two threads that
do so at once (a server that starts, and the handle of another that hears of a new configuration)
strike it off twice, which is a ``ValueError``.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

_one = threading.RLock()


def serialise_one_at_a_time() -> None:
    """Have Serve serialise routers one at a time in this process; once is enough. Needs Ray."""
    from ray.serve.config import RequestRouterConfig

    serialise = getattr(RequestRouterConfig, "_serialize_request_router_cls", None)
    if serialise is None or hasattr(serialise, "__wrapped__"):
        return

    @functools.wraps(serialise)
    def alone(config: Any) -> None:
        with _one:
            serialise(config)

    RequestRouterConfig._serialize_request_router_cls = alone  # type: ignore[method-assign, assignment]

"""The Serve application: started once for all servers that want the same, found by its name."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import Any

from cloud_server.engine.ray.replica import Replica
from cloud_server.engine.ray.scale import RayScale
from cloud_server.engine.spec import EngineSpec
from shared.errors import FeatherwireError
from shared.installation import package_version

FRAMES = "frames"
ALONE = "alone"
"""The deployments: of all frames, and of those under suspicion, one at a time."""

START_S = 900.0
"""How long a replica may take to load everything, on a node that has to be started first."""

_POLL_S = 0.5
_connecting = threading.Lock()


def connect(address: str) -> None:
    """Join the cluster at ``address`` (HOST:PORT, or auto); blocks.

    Raises ``FeatherwireError``: ray_missing, ray_unreachable.
    """
    # A server that has lost its cluster must not start one of its own.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        import ray
        from ray import serve
    except ImportError:
        raise FeatherwireError(
            "ray_missing", "the engine on Ray needs it: pip install 'featherwire[ray]'"
        ) from None
    with _connecting:
        try:
            ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
            serve.start(proxy_location="Disabled")
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise FeatherwireError(
                "ray_unreachable", f"no Ray cluster at {address}: {reason}"
            ) from None


def application_name(spec: EngineSpec, scale: RayScale) -> str:
    """The same for servers of one release that want the same, and for no others."""
    text = "\n".join((package_version(), spec.model_dump_json(), scale.model_dump_json()))
    return f"featherwire-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def application(spec: EngineSpec, scale: RayScale, log_level: str) -> Any:
    """Both deployments, for ``serve.run`` or a RayService's ``import_path``."""
    from ray import serve

    common = {
        "ray_actor_options": {"num_cpus": scale.num_cpus, "num_gpus": scale.num_gpus},
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 120.0,
        "graceful_shutdown_timeout_s": 60.0,
    }
    arguments = (spec.model_dump_json(), log_level)
    frames = serve.deployment(Replica).options(
        name=FRAMES,
        max_ongoing_requests=scale.max_ongoing,
        max_queued_requests=scale.max_in_flight,
        autoscaling_config={
            "min_replicas": scale.min_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.target_ongoing,
            "upscale_delay_s": scale.upscale_delay_s,
            "downscale_delay_s": scale.downscale_delay_s,
        },
        **common,
    )
    alone = serve.deployment(Replica).options(
        name=ALONE,
        max_ongoing_requests=1,
        max_queued_requests=scale.max_in_flight,
        autoscaling_config={
            "min_replicas": 0,
            "max_replicas": 1,
            "upscale_delay_s": 0.0,
            "downscale_delay_s": 60.0,
        },
        **common,
    )
    # An application is what one deployment is bound to, so `frames` gets a handle that it ignores.
    return frames.bind(*arguments, alone.bind(*arguments))


def start(spec: EngineSpec, scale: RayScale, log_level: str) -> str:
    """Start the application unless it runs, and wait for a replica; its name. Blocks.

    Raises ``FeatherwireError("worker_failed")``.
    """
    from ray import serve

    name = application_name(spec, scale)
    deadline = time.monotonic() + START_S
    if name not in serve.status().applications:
        try:
            serve.run(application(spec, scale, log_level), name=name, route_prefix=None)
        except (RuntimeError, TimeoutError) as error:
            raise _not_started(str(error)) from None
    while not running(name)[FRAMES]:
        found = serve.status().applications.get(name)
        if found is not None and found.status.value == "DEPLOY_FAILED":
            raise _not_started(" ".join(one.message for one in found.deployments.values()))
        if time.monotonic() > deadline:
            raise _not_started(f"not within {START_S:g} s")
        time.sleep(_POLL_S)
    return name


def _not_started(why: str) -> FeatherwireError:
    return FeatherwireError("worker_failed", f"no replica on Ray: {why[-2000:]}")


def handles(name: str) -> tuple[Any, Any]:
    """Of the deployments FRAMES and ALONE."""
    from ray import serve

    return serve.get_deployment_handle(FRAMES, name), serve.get_deployment_handle(ALONE, name)


def running(name: str) -> dict[str, int]:
    """Replicas that run now, by deployment. Blocks; raises what Ray raises."""
    from ray import serve

    found = serve.status().applications.get(name)
    deployments = {} if found is None else found.deployments
    return {
        one: deployments[one].replica_states.get("RUNNING", 0) if one in deployments else 0
        for one in (FRAMES, ALONE)
    }

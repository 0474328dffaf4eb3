"""The Serve application: its replicas, how many there are, how it is started and found.

It is started once for all servers that want the same, and found by its name. Ray sends the class
``Replica`` to its nodes by this module's path, so both ends need the same release.
"""

from __future__ import annotations

import asyncio
import faulthandler
import hashlib
import itertools
import os
import threading
import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cloud_server.engine import messages
from cloud_server.engine.api import EngineOutcome
from cloud_server.engine.ray import routers
from cloud_server.engine.spec import EngineSpec
from cloud_server.telemetry.logs import configure_logs
from shared.errors import FeatherwireError
from shared.installation import install_command, package_version
from shared.proto.featherwire.v1 import worker_pb2

FRAMES = "frames"
ALONE = "alone"
"""The deployments: of all frames, and of those under suspicion, one at a time."""

START_S = 900.0
"""How long a replica may take to load everything, on a node that has to be started first."""

HUNG_S = 30.0
"""A replica that has not answered so long after a frame's deadline is replaced."""

_POLL_S = 0.5
_connecting = threading.Lock()


class RayScale(BaseModel):
    """Replicas, what each takes of its node, and how much may be on its way to them.

    ``num_gpus`` may be a part: 0.25 puts four replicas on one GPU. ``target_ongoing``: frames a
    replica at which replicas are added or taken away; ``max_ongoing``: frames that a replica has
    at most, which its engine puts together in batches; ``max_in_flight``: frames that this server
    has given to the cluster, those that wait there for a replica included. Further frames wait in
    the server, where they hold the credits of their streams.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=4, ge=1)
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    target_ongoing: float = Field(default=4.0, gt=0)
    max_ongoing: int = Field(default=8, ge=1)
    max_in_flight: int = Field(default=64, ge=1)
    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=120.0, ge=0)


class Replica:
    """What Serve runs. Frames that are asked for at once share batches inside the engine."""

    def __init__(self, spec: str, log_level: str, *_bound: object) -> None:
        """spec: JSON of EngineSpec."""
        faulthandler.enable()
        configure_logs(log_format="json", level=log_level)
        self._spec = EngineSpec.model_validate_json(spec)
        self._opening = asyncio.Lock()
        self._overdue_at: dict[int, float] = {}
        self._numbers = itertools.count()

    async def open(self) -> None:
        """Load everything. Raises ``FeatherwireError``."""
        self._engine = await self._spec.open()

    async def check_health(self) -> None:
        """Called by Serve: before the replica gets frames, and every few seconds from then on."""
        async with self._opening:
            if not hasattr(self, "_engine"):
                await self.open()
        if not self._engine.alive:
            raise RuntimeError(f"a stage has died: {self._engine.queues}")
        now = time.monotonic()
        if any(overdue_at < now for overdue_at in self._overdue_at.values()):
            raise RuntimeError(f"frames are not answered: {self._engine.queues}")

    async def opened(self) -> bytes:
        """``WorkerOpened``: the tasks, and the names of the stages."""
        message = worker_pb2.WorkerOpened(
            tasks=[messages.task_message(task) for task in self._engine.tasks.values()],
            status=worker_pb2.WorkerStatus(queues=self._engine.queues),
        )
        return message.SerializeToString()

    async def analyse(self, data: bytes) -> bytes:
        """``FrameAnalysed`` for ``AnalyseFrame``; what goes wrong with the frame is inside."""
        request = worker_pb2.AnalyseFrame.FromString(data)
        number = next(self._numbers)
        self._overdue_at[number] = time.monotonic() + request.deadline_s + HUNG_S
        try:
            outcome = await self._engine.submit(messages.frame_from_message(request))
        except FeatherwireError as error:
            outcome = EngineOutcome(error=error)
        finally:
            del self._overdue_at[number]
        return messages.outcome_message(request.id, outcome).SerializeToString()


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
            "ray_missing", f"the engine on Ray needs Ray: {install_command('ray')}"
        ) from None
    with _connecting:
        routers.serialise_one_at_a_time()
        try:
            ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
            serve.start(proxy_location="Disabled")
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise FeatherwireError(
                "ray_unreachable", f"no Ray cluster at {address}: {reason}"
            ) from None


def application_name(spec: EngineSpec, scale: RayScale) -> str:
    """A name that servers share which have one release, spec and scale, and no others."""
    text = "\n".join((package_version(), spec.model_dump_json(), scale.model_dump_json()))
    return f"featherwire-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def application(spec: EngineSpec, scale: RayScale, log_level: str) -> Any:
    """Both deployments, for ``serve.run`` or a RayService's ``import_path``."""
    from ray import serve

    common: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": scale.num_cpus, "num_gpus": scale.num_gpus},
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 120.0,
        "graceful_shutdown_timeout_s": 60.0,
    }
    arguments = (spec.model_dump_json(), log_level)
    frames = serve.deployment(
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
    )(Replica)
    alone = serve.deployment(
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
    )(Replica)
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
    return FeatherwireError("worker_failed", f"no replica could be started on Ray: {why[-2000:]}")


def handles(name: str) -> tuple[Any, Any]:
    """Handles of the deployments FRAMES and ALONE, for one engine, which shuts them down.

    Those of ``serve.get_deployment_handle`` are one a process: who ends one ends everybody's.
    """
    from ray.serve.handle import DeploymentHandle

    return DeploymentHandle(FRAMES, name), DeploymentHandle(ALONE, name)


def running(name: str) -> dict[str, int]:
    """Replicas that run now, by deployment. Blocks; raises what Ray raises."""
    from ray import serve

    found = serve.status().applications.get(name)
    deployments = {} if found is None else found.deployments
    counts = dict.fromkeys((FRAMES, ALONE), 0)
    for one in counts:
        states = deployments[one].replica_states if one in deployments else {}
        counts[one] = sum(number for state, number in states.items() if state == "RUNNING")
    return counts

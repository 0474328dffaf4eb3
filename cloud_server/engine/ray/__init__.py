"""The engine on a Ray cluster: replicas of a Serve deployment, each with a LocalEngine.

                                            ┌─ replica: LocalEngine (num_gpus of a GPU)
submit ── places ── Serve's router ─────────┼─ replica
             │                              └─ ... as many as the load asks for
             └─ frames under suspicion ────── alone: one replica, one frame at a time

engine        what the server asks: places, deadlines, frames of replicas that died
replica       the other end: a LocalEngine, asked with the messages of worker processes
application   the two deployments, how they are started and found, how many replicas run
scale         replicas, parts of GPUs, bounds, as plain values

Ray is an extra (`pip install 'featherwire[ray]'`); nothing here imports it before it is asked for.
"""

from cloud_server.engine.ray.engine import RayEngine
from cloud_server.engine.ray.scale import RayScale

__all__ = ["RayEngine", "RayScale"]

"""The engine on a Ray cluster: replicas of a Serve deployment, each with a LocalEngine.

                                            ┌─ replica: LocalEngine (num_gpus of a GPU)
submit ── places ── Serve's router ─────────┼─ replica
             │                              └─ ... as many as the load asks for
             └─ frames under suspicion ────── alone: one replica, one frame at a time

engine        what the server asks: places, deadlines, frames of replicas that died
application   replicas (a LocalEngine each, asked with the messages of worker processes), their
              number and size, the two deployments, how they are started and found
routers       a repair of Ray Serve's own: its settings may be built in several threads at once

Ray is an extra (`pip install 'featherwire[ray]'`); nothing here imports it before it is asked for.
"""

from cloud_server.engine.ray.application import RayScale
from cloud_server.engine.ray.engine import RayEngine

__all__ = ["RayEngine", "RayScale"]

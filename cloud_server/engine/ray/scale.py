"""How much of a Ray cluster an engine takes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from cloud_server.serve.settings import ServerSettings


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

    @classmethod
    def of(cls, settings: ServerSettings) -> RayScale:
        """What the settings say."""
        return cls(
            min_replicas=settings.ray_min_replicas,
            max_replicas=settings.ray_max_replicas,
            num_cpus=settings.ray_num_cpus,
            num_gpus=settings.ray_num_gpus,
            target_ongoing=settings.ray_target_ongoing,
            max_ongoing=settings.ray_max_ongoing,
            max_in_flight=settings.ray_max_in_flight,
        )

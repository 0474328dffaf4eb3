"""Types of what featherwire-train prints with ``--json``; see ``shared.cli.documents``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from shared.cli.documents import Document


class Step(Document):
    """A step of a recipe."""

    step: str
    summary: str
    reads: list[str]
    """Files of the run folder that it needs."""


class Steps(Document):
    """The steps of a recipe, in their order."""

    steps: list[Step]


class Consistency(Document):
    """How a state's reconstructions, encoded again, agree with what was received: shares, 0 to
    1."""

    state: int
    photos: int
    latents: float
    vivid: float
    faithful: float


class Consistencies(Document):
    """Every state but the finest."""

    states: list[Consistency]


class Advised(Document):
    """Where the advice was written, and what was measured for it."""

    advice: str
    bundle_id: str
    default_state: int | None = None
    photos: int | None = None
    false_positives_uncompressed: float | None = None
    false_positives_before: list[float] | None = None
    false_positives: list[float] | None = None
    """Of each state, a photo."""


class Measured(BaseModel):
    """Figures that depend on what was measured: those of the file that --output writes."""

    model_config = ConfigDict(extra="allow")


DOCUMENTS: Mapping[str, Any] = {
    "featherwire-train steps": Steps,
    "featherwire-train STEP": Measured,
    "featherwire-train evaluate": Measured,
    "featherwire-train consistency": Consistencies,
    "featherwire-train advise": Advised,
    "featherwire-train ablate": Measured,
}

"""The recipe of a cut network: one YAML file that the steps follow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.palette.tree import MAX_DEPTH
from training.contexts.fit import ContextSettings
from training.recipe import RecipeError
from training.split.model import ModelSettings
from training.split.palettes import ChainShape, PlaneShape
from training.split.training import StageSettings
from training.split.views import ViewSettings


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ViewsPart(_Part):
    """See :class:`training.split.views.ViewSettings`."""

    views: int = Field(5000, ge=8)
    held_out: int = Field(160, ge=1)
    whole: float = Field(0.4, ge=0, le=1)
    cropped: float = Field(0.3, ge=0, le=1)
    paired: float = Field(0.15, ge=0, le=1)
    seed: int = 5


class ModelPart(_Part):
    """See :class:`training.split.model.ModelSettings`."""

    latent: int = Field(56, ge=1, le=256)
    analysis_width: int = Field(160, ge=1)
    analysis_blocks: int = Field(2, ge=0, le=8)
    synthesis_width: int = Field(192, ge=1)
    synthesis_blocks: int = Field(3, ge=0, le=8)
    rate_width: int = Field(96, ge=1)


class StagePart(_Part):
    """See :class:`training.split.training.StageSettings`."""

    steps: int = Field(2400, ge=0)
    batch: int = Field(8, ge=1)
    learning_rate: float = Field(4e-4, gt=0, lt=1)
    tail_learning_rate: float = Field(1e-4, ge=0, lt=1)
    rate_learning_rate: float = Field(3e-3, gt=0, lt=1)
    warm_up: int = Field(150, ge=1)
    average: float = Field(0.997, ge=0, lt=1)
    seed: int = 1

    def settings(self) -> StageSettings:
        """The stage's plain settings."""
        return StageSettings(**self.model_dump())


class ChainPart(_Part):
    """A chain: the operating point that its synthesis starts from, its step in the model's units
    (None: the point's), the channels of its planes by scale, how often each splits, and its
    states: splits left out, finest first. bit_worth: None for leaves on the lattice; or what a bit
    is worth at the first and the last split in squared steps, for entropy-constrained trees."""

    point: int = Field(ge=0)
    step: float | None = Field(None, gt=0)
    bit_worth: tuple[float, float] | None = None
    channels: dict[str, tuple[Annotated[int, Field(ge=1)], ...]]
    depth: int = Field(8, ge=1, le=MAX_DEPTH)
    cuts: tuple[Annotated[int, Field(ge=0, lt=MAX_DEPTH)], ...] = (0,)

    def shape(self, steps: Sequence[float]) -> ChainShape:
        """The chain's plain settings; steps: of the model's points."""
        step = steps[self.point] if self.step is None else self.step
        planes = {
            scale: tuple(PlaneShape(width, self.depth) for width in widths)
            for scale, widths in self.channels.items()
        }
        weights = None
        if self.bit_worth is not None:
            weights = (self.bit_worth[0] * step**2, self.bit_worth[1] * step**2)
        return ChainShape(planes, step, weights, self.cuts)


class ContextsPart(_Part):
    """See :class:`training.contexts.fit.ContextSettings`; with 0 steps, static tables."""

    views: int = Field(1500, ge=2)
    hidden: int = Field(32, ge=1, le=1024)
    width: int = Field(16, ge=1, le=1024)
    steps: int = Field(800, ge=0)
    batch: int = Field(1024, ge=2)
    learning_rate: float = Field(4e-3, gt=0, lt=1)
    seed: int = 1

    def settings(self) -> ContextSettings:
        """The fit's plain settings."""
        values = self.model_dump(exclude={"views", "hidden"})
        return ContextSettings(hidden=(self.hidden,), **values)


class SplitRecipe(_Part):
    """The whole recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    version: str = "1"
    description: str = ""
    network: str
    views: ViewsPart = ViewsPart()
    model: ModelPart = ModelPart()
    bits_per_position: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    bit_weight: float = Field(0.16, gt=0)
    start_samples: int = Field(240, ge=8)
    fit: StagePart = StagePart()
    tree_views: int = Field(1500, ge=1)
    tree_vectors: int = Field(120_000, ge=256)
    chains: tuple[ChainPart, ...] = Field(min_length=1)
    tail: StagePart = StagePart()
    contexts: ContextsPart = ContextsPart()

    def view_settings(self) -> ViewSettings:
        """The views' plain settings."""
        return ViewSettings(**self.views.model_dump())

    def model_settings(self) -> ModelSettings:
        """The bottleneck's plain settings."""
        return ModelSettings(**self.model.model_dump())

    def points_of_states(self) -> list[int]:
        """The operating point of every state, finest first."""
        return [chain.point for chain in self.chains for _ in chain.cuts]


def load_split_recipe(path: Path | None) -> SplitRecipe:
    """Read a recipe, ``detect`` when None. Raises RecipeError ``not_found`` or ``bad_recipe``."""
    source = path or Path(__file__).parent.parent / "recipes" / "detect.yaml"
    try:
        values: Any = yaml.safe_load(source.read_text())
        return SplitRecipe.model_validate(values)
    except OSError as error:
        raise RecipeError("not_found", f"{source}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise RecipeError("bad_recipe", f"{source}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecipeError("bad_recipe", f"{source}: {where}: {first['msg']}") from None

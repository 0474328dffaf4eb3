"""Bundles of the null codec: there is nothing to train, only qualities to choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from codec.base import Check, Pixels, Report, TrainingStep
from codec.kit.recipe import BundleRecipe
from codec.null.edge import NullEdge, NullSettings
from shared.bundle import Bundle, Manifest, PictureSpec, StateSpec

Quality = Annotated[int, Field(ge=1, le=95)]


class NullRecipe(BundleRecipe):
    """qualities: of every state, the finest first."""

    qualities: tuple[Quality, ...] = Field((85, 40), min_length=1, max_length=16)


def make_bundle(recipe: NullRecipe, folder: Path) -> Bundle:
    """Write the recipe's bundle into ``folder``."""
    manifest = Manifest(
        name=recipe.name,
        version=recipe.version,
        description=recipe.description,
        codec="null",
        # A rule of thumb: photos of a few hundred pixels a side.
        states=tuple(
            StateSpec(state=state, typical_bits_per_pixel=0.02 * quality, begins=True)
            for state, quality in enumerate(recipe.qualities)
        ),
        pictures=(PictureSpec(name="jpeg"),),
        settings=NullSettings(qualities=recipe.qualities).model_dump(mode="json"),
        files={},
    )
    return Bundle.create(folder, manifest, {})


def export(recipe: NullRecipe, run: Path, report: Report) -> Mapping[str, Any]:
    """Write the bundle into the run's folder."""
    bundle = make_bundle(recipe, run / "bundle")
    return {"bundle": bundle.origin, "bundle_id": bundle.id}


class NullTrainer:
    """See :class:`codec.base.Trainer`."""

    recipe = NullRecipe
    steps: tuple[TrainingStep[NullRecipe], ...] = (
        TrainingStep("export", "Write the bundle.", export),
    )
    checks: Mapping[str, Check] = {}

    def uncut(self, bundle: Bundle) -> None:
        """There is no network."""

    def stages(self, bundle: Bundle, photo: Pixels) -> Mapping[str, Callable[[], object]]:
        """One stage: the JPEG."""
        edge = NullEdge(bundle)
        return {"JPEG": lambda: edge.encode(photo)}


def small_bundle(folder: Path) -> Bundle:
    """See :func:`codec.base.small_bundle`: the default recipe's."""
    return make_bundle(NullRecipe(codec="null", name="null"), folder)


def open_trainer() -> NullTrainer:
    """See :func:`codec.base.trainer`."""
    return NullTrainer()

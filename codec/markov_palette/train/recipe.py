"""The recipe: one YAML file that says everything a bundle is made from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from codec.kit.recipe import BundleRecipe, Part, PhotosPart
from codec.kit.sequences import SequencesPart
from codec.markov_palette.networks import DecoderConfig
from codec.markov_palette.train.contexts import ContextSettings
from codec.markov_palette.train.fit import FitConfig
from codec.markov_palette.train.networks import (
    SEMANTIC_STRIDE,
    TEXTURE_STRIDE,
    ExtractorConfig,
    PlaneLayout,
)
from codec.markov_palette.train.temporal.fit import TemporalSettings
from codec.settings import PlaneSpec, ScaleSpec


class ExtractorPart(Part):
    """The edge network's shape."""

    semantic_channels: int = Field(16, ge=1, le=256)
    texture_channels: int = Field(12, ge=1, le=256)
    widths: tuple[int, int, int] = (64, 128, 192)
    blocks: int = Field(2, ge=0, le=16)
    texture_blocks: int = Field(1, ge=0, le=16)


class DecoderPart(Part):
    """The cloud network's shape."""

    restorer_width: int = Field(96, ge=4, le=1024)
    widths: tuple[int, ...] = Field((192, 128, 64, 32), min_length=2, max_length=4)
    blocks: tuple[int, ...] = Field((2, 3, 2, 1), min_length=2, max_length=4)
    embedding: int = Field(64, ge=4, le=1024)


class PlanePart(PlaneSpec):
    """A plane of the bundle, and what bits are worth in it.

    rate_weights: at every split, as a share of the variance of the plane's vectors; without them
    its tree is made for nearest leaves.
    """

    rate_weights: tuple[Annotated[float, Field(ge=0, le=100)], ...] = ()

    @model_validator(mode="after")
    def _one_a_split(self) -> PlanePart:
        if len(self.rate_weights) not in (0, self.depth):
            raise ValueError(f"plane {self.name} needs a rate weight for each of its splits")
        return self

    @property
    def spec(self) -> PlaneSpec:
        """What the manifest says of it."""
        return PlaneSpec(**self.model_dump(exclude={"rate_weights"}))


class FitPart(Part):
    """The optimisation; see :class:`~codec.markov_palette.train.fit.FitConfig`."""

    crop: int = Field(192, ge=48, le=1024, multiple_of=16)
    batch: int = Field(8, ge=1, le=4096)
    joint_steps: int = Field(5000, ge=1)
    decoder_steps: int = Field(2000, ge=0)
    perceptual_from: float = Field(0.1, ge=0, le=1)
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    decoder_learning_rate: float = Field(5e-4, gt=0, lt=1)
    squared_weight: float = Field(2.0, ge=0)
    flat_weight: float = Field(0.0, ge=0)
    perceptual_weight: float = Field(0.6, ge=0)
    detector_weight: float = Field(0.0, ge=0)
    classifier_weight: float = Field(0.0, ge=0)
    features_from: float = Field(0.1, ge=0, le=1)
    texture_weight: float = Field(0.0, ge=0)
    latent_weight: float = Field(0.2, ge=0)
    commitment_weight: float = Field(1.0, ge=0)
    linear_samples: int = Field(384, ge=1)
    start_from: str = ""
    float_steps: int = Field(20, ge=0)
    settle_steps: int = Field(400, ge=1)
    rebuild_every: int = Field(60, ge=1)
    rebuild_every_early: int = Field(10, ge=1)
    tree_samples: int = Field(16384, ge=256)
    ema: float = Field(0.998, ge=0, lt=1)
    seed: int = Field(1, ge=0)
    checkpoint_every: int = Field(500, ge=1)
    threads: int = Field(2, ge=1)
    bf16: bool = True


class TablesPart(Part):
    """How context networks are fitted; see
    :class:`~codec.markov_palette.train.contexts.ContextSettings`."""

    photos: int = Field(1200, ge=1, description="training photos to fit on and to measure on")
    held_out: int = Field(150, ge=1, description="of these to measure on; at most a sixth")
    hidden: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field((48, 32), min_length=1)
    width: int = Field(16, ge=1, le=1024)
    trunk: int = Field(128, ge=1, le=1024)
    features: int = Field(24, ge=1, le=256)
    steps: int = Field(2400, ge=1)
    batch: int = Field(2048, ge=2, le=2**20)
    learning_rate: float = Field(4e-3, gt=0, lt=1)

    def context_settings(self, seed: int) -> ContextSettings:
        """The fit's plain settings."""
        return ContextSettings(**self.model_dump(exclude={"photos", "held_out"}), seed=seed)


class TemporalPart(Part):
    """How networks of predicted frames are fitted; see
    :class:`~codec.markov_palette.train.temporal.fit.TemporalSettings`. states: what streams are
    coded to, each as often as it stands here; the coarsest for those that there are not."""

    states: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 0, 3, 5), min_length=1)
    steps: int = Field(600, ge=1)
    batch: int = Field(2048, ge=2, le=2**20)
    learning_rate: float = Field(2e-3, gt=0, lt=1)
    change_steps: int = Field(800, ge=1)
    change_batch: int = Field(8192, ge=1, le=2**20)
    change_hidden: int = Field(16, ge=1, le=256)

    def settings(self, seed: int) -> TemporalSettings:
        """The fit's plain settings."""
        return TemporalSettings(**self.model_dump(exclude={"states"}), seed=seed)


class Recipe(BundleRecipe):
    """The whole recipe."""

    codec: Literal["markov-palette"]
    photos: PhotosPart
    extractor: ExtractorPart = ExtractorPart()
    decoder: DecoderPart = DecoderPart()
    planes: tuple[PlanePart, ...] = Field(min_length=1)
    states: tuple[tuple[Annotated[int, Field(ge=0, le=12)], ...], ...] = Field(min_length=1)
    fit: FitPart = FitPart()
    tables: TablesPart = TablesPart()
    sequences: SequencesPart = SequencesPart()
    temporal: TemporalPart = TemporalPart()
    psnr_photos: int = Field(0, ge=0, description="photos the PSNR model is fitted on; 0: none")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for row in self.states:
            if len(row) != len(self.planes):
                raise ValueError("every state needs one depth per plane")
        if self.states[0] != tuple(plane.depth for plane in self.planes):
            raise ValueError("state 0 must be the full depth of every plane")
        scales = {scale.name for scale in self.scales}
        if {plane.scale for plane in self.planes} != scales:
            raise ValueError(f"planes must cover the scales {sorted(scales)}")
        return self

    @property
    def scales(self) -> tuple[ScaleSpec, ...]:
        """The extractor's outputs."""
        return (
            ScaleSpec(
                name="semantic", stride=SEMANTIC_STRIDE, channels=self.extractor.semantic_channels
            ),
            ScaleSpec(
                name="texture", stride=TEXTURE_STRIDE, channels=self.extractor.texture_channels
            ),
        )

    @property
    def plane_specs(self) -> tuple[PlaneSpec, ...]:
        """The planes as the manifest has them."""
        return tuple(plane.spec for plane in self.planes)

    def fit_config(self) -> FitConfig:
        """The fit step's plain settings."""
        order = [scale.name for scale in self.scales]
        layout = tuple(
            PlaneLayout(
                p.name,
                order.index(p.scale),
                p.first_channel,
                p.channels,
                p.depth,
                p.rate_weights,
            )
            for p in self.planes
        )
        values = self.fit.model_dump(exclude={"bf16"})
        return FitConfig(layout, self.states, **values)

    def extractor_config(self) -> ExtractorConfig:
        """The edge network's configuration."""
        return ExtractorConfig(**self.extractor.model_dump())

    def decoder_config(self) -> DecoderConfig:
        """The cloud network's configuration."""
        return DecoderConfig(
            semantic_channels=self.extractor.semantic_channels,
            texture_channels=self.extractor.texture_channels,
            states=len(self.states),
            **self.decoder.model_dump(),
        )

"""The recipe of a picture codec for fidelity: one YAML file that the steps follow."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from codec.kit.psnr import LEAST_PHOTOS
from codec.kit.recipe import BundleRecipe, Part, PhotosPart
from codec.kit.sequences import SequencesPart
from codec.lapped_lattice.networks import DecoderConfig
from codec.lapped_lattice.train.decoders.fit import DecoderSettings
from codec.lapped_lattice.train.fit import FitSettings
from codec.lattice_palette.train.nested.contexts import NestedContextsPart
from codec.lattice_palette.train.nested.lattices import NestedPart
from codec.settings import MAX_CHANNELS, DecoderName
from shared.errors import RecipeError


class TransformPart(Part):
    """The linear start. channels: that are kept of 768. chroma: how much more error Cb and Cr may
    have than Y. samples: photos on which channels are chosen."""

    channels: int = Field(256, ge=8, le=MAX_CHANNELS)
    chroma: float = Field(1.3, ge=0.5, le=4)
    samples: int = Field(60, ge=1)


class AnalysisPart(Part):
    """What a network adds to the transform on the edge."""

    width: int = Field(96, ge=1, le=512)
    blocks: int = Field(0, ge=0, le=4)


class DecoderPart(Part):
    """The cloud's networks; see :class:`codec.lapped_lattice.networks.DecoderConfig`."""

    width: int = Field(128, ge=4, le=1024)
    blocks: int = Field(2, ge=0, le=16)
    detail_width: int = Field(48, ge=4, le=512)
    detail_blocks: int = Field(1, ge=0, le=16)
    detail_stride: Literal[1, 2, 4, 8] = 2
    carried: int = Field(24, ge=1, le=256)


class FitPart(Part):
    """The optimisation; see :class:`codec.lapped_lattice.train.fit.FitSettings`."""

    crop: int = Field(192, ge=48, le=1024, multiple_of=16)
    batch: int = Field(4, ge=1, le=4096)
    joint_steps: int = Field(0, ge=0)
    decoder_steps: int = Field(4000, ge=0)
    learning_rate: float = Field(8e-4, gt=0, lt=1)
    analysis_share: float = Field(0.02, ge=0, le=1)
    network_share: float = Field(0.2, ge=0, le=1)
    absolute_weight: float = Field(0.1, ge=0)
    bit_worth: tuple[Annotated[float, Field(ge=0)], ...] = ()
    held_out: int = Field(24, ge=1)
    measure_every: int = Field(400, ge=1)
    checkpoint_every: int = Field(100, ge=1)
    threads: int = Field(1, ge=1)
    bf16: bool = False
    seed: int = Field(1, ge=0)


class TrainedPart(Part):
    """A decoder of a bundle's bits; see
    :class:`codec.lapped_lattice.train.decoders.fit.DecoderSettings`.

    width, blocks, detail_width, detail_blocks, detail_stride, carried, sampled: of its networks;
    None is as in the faithful one.
    """

    width: int | None = Field(None, ge=4, le=1024)
    blocks: int | None = Field(None, ge=0, le=16)
    detail_width: int | None = Field(None, ge=4, le=512)
    detail_blocks: int | None = Field(None, ge=0, le=16)
    detail_stride: Literal[1, 2, 4, 8] | None = None
    carried: int | None = Field(None, ge=1, le=256)
    sampled: int | None = Field(None, ge=0, le=1)
    crop: int = Field(192, ge=48, le=1024, multiple_of=16)
    batch: int = Field(4, ge=2, le=4096)
    steps: int = Field(12000, ge=0)
    learning_rate: float = Field(6e-4, gt=0, lt=1)
    absolute_weight: float = Field(1.0, ge=0)
    flat_weight: float = Field(0.0, ge=0)
    squared_weight: float = Field(4.0, ge=0)
    colour_weight: float = Field(0.0, ge=0)
    perceptual_weight: float = Field(0.0, ge=0)
    texture_weight: float = Field(0.0, ge=0)
    detector_weight: float = Field(0.0, ge=0)
    classifier_weight: float = Field(0.0, ge=0)
    adversarial_weight: float = Field(0.0, ge=0)
    adversarial_from: float = Field(0.5, ge=0, le=1)
    adversary_rate: float = Field(4e-4, gt=0, lt=1)
    relative: bool = False
    ema: float = Field(0.998, ge=0, lt=1)
    checkpoint_every: int = Field(200, ge=1)
    threads: int = Field(1, ge=1)
    seed: int = Field(1, ge=0)

    @model_validator(mode="after")
    def _large_enough(self) -> TrainedPart:
        judges = (
            self.perceptual_weight, self.texture_weight, self.detector_weight,
            self.classifier_weight,
        )  # fmt: skip
        if any(judges) and self.crop < LEAST_SEEN:
            raise ValueError(f"networks that judge need crops of {LEAST_SEEN} pixels at least")
        return self


class LappedRecipe(BundleRecipe):
    """The whole recipe.

    groups: channels of each plane, those of greatest variance first. nested: see
    :class:`~codec.lattice_palette.train.nested.lattices.NestedPart`; its step is in the picture's
    values, of which there are 255. dead, lean: see
    :mod:`codec.lapped_lattice.lattice`. sequences: None is a bundle without predicted frames.
    psnr_photos: that the PSNR model is fitted on; 0: none, and no such targets. decoders: of the
    same bits, by name, trained once the bundle is there; ``faithful`` takes its decoder's place.
    """

    codec: Literal["lapped-lattice"]
    photos: PhotosPart
    transform: TransformPart = TransformPart()
    analysis: AnalysisPart = AnalysisPart()
    decoder: DecoderPart = DecoderPart()
    groups: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    nested: NestedPart
    dead: float = Field(0.15, ge=0, lt=1)
    lean: float = Field(0.35, ge=0, lt=1)
    fit: FitPart = FitPart()
    sequences: SequencesPart | None = None
    contexts: NestedContextsPart = NestedContextsPart()
    psnr_photos: int = Field(0, ge=0)
    decoders: dict[DecoderName, TrainedPart] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> LappedRecipe:
        if sum(self.groups) != self.transform.channels:
            raise ValueError(f"the groups are not {self.transform.channels} channels")
        if self.nested.step is None:
            raise ValueError("the nested lattices of pictures need a step")
        self.nested.check({SCALE: self.groups})
        if 0 < self.psnr_photos < LEAST_PHOTOS:
            raise ValueError(f"psnr_photos are 0, or at least {LEAST_PHOTOS}")
        if self.fit.joint_steps and len(self.fit.bit_worth) != len(self.nested.states):
            raise ValueError("joint steps need what a bit is worth at every state (bit_worth)")
        return self

    @property
    def step(self) -> float:
        """Of the finest lattice, of pictures in -0.5..0.5."""
        assert self.nested.step is not None
        return self.nested.step / 255

    def fit_settings(self) -> FitSettings:
        """The fit's plain settings."""
        return FitSettings(dead=self.dead, lean=self.lean, **self.fit.model_dump())

    def decoder_settings(self, name: str) -> tuple[DecoderSettings, dict[str, int]]:
        """The decoder step's plain settings, and what the decoder has otherwise than the faithful
        one. Raises RecipeError ``bad_recipe`` for a decoder that is not the recipe's."""
        if name not in self.decoders:
            known = ", ".join(self.decoders) or "none"
            raise RecipeError("bad_recipe", f"the recipe trains no decoder {name!r}: {known}")
        values = self.decoders[name].model_dump(exclude_none=True)
        sizes = {size: values.pop(size) for size in _SIZES if size in values}
        return DecoderSettings(held_out=self.fit.held_out, **values), sizes

    def decoder_config(self) -> DecoderConfig:
        """The cloud network's configuration."""
        return DecoderConfig(
            channels=self.transform.channels,
            states=len(self.nested.states),
            **self.decoder.model_dump(),
        )


LEAST_SEEN = 96
"""Pixels a side of what networks that judge look at, of which they see a window."""
_SIZES = ("width", "blocks", "detail_width", "detail_blocks", "detail_stride", "carried", "sampled")
SCALE = "lapped"
"""The name of the extractor's one output."""

"""Settings of codecs of features: scales, planes, states, chains, tails and a model of PSNR.

They are the manifest's ``settings``. The first format of manifests had the same fields among its
common ones, so that one model reads bundles of both formats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.bundle import Bundle, Manifest, PictureSpec, Side, StateSpec
from shared.errors import BundleError
from shared.preprocess import Placement

MAX_DEPTH: Final = 12
MAX_CHANNELS: Final = 256
PALETTE_FILE: Final = "palette.npz"
CONTEXTS_FILE: Final = "contexts.npz"
EXTRACTOR_FILES: Final[Mapping[Literal["fp32", "int8"], str]] = {
    "fp32": "extractor.onnx",
    "int8": "extractor-int8.onnx",
}
DECODER_FILE: Final = "decoder.safetensors"
_CHAIN_PARTS = ("planes", "states")
DecoderName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]


def decoder_file(name: str) -> str:
    """The file with the weights of one of ``other_decoders``."""
    return f"decoder-{name}.safetensors"


class PlaneSpec(BaseModel):
    """One group of channels of one scale, quantised with a palette tree of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9_.]{1,40}$")
    scale: str = Field(description="name of the extractor output that the channels belong to")
    first_channel: int = Field(ge=0, lt=MAX_CHANNELS)
    channels: int = Field(ge=1, le=MAX_CHANNELS)
    depth: int = Field(ge=1, le=MAX_DEPTH, description="2**depth leaf colours")


class DiffusionState(BaseModel):
    """One row of the state table: how deep each plane is described, in the planes' order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: int = Field(ge=0)
    depths: tuple[Annotated[int, Field(ge=0, le=MAX_DEPTH)], ...]
    typical_bits_per_pixel: float = Field(ge=0, description="median over training photos")


class ScaleSpec(BaseModel):
    """One output of the extractor: ``channels`` values every ``stride`` pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9_]{1,40}$")
    stride: int = Field(ge=1, le=256)
    channels: int = Field(ge=1, le=1024)


class ResizeSpec(BaseModel):
    """The size in pixels that pictures are brought to before the extractor sees them.

    ``stretch`` changes their proportions; ``letterbox`` keeps them and fills up with grey.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(ge=16, le=2048)
    height: int = Field(ge=16, le=2048)
    fit: Literal["stretch", "letterbox"] = "stretch"


class ChainSpec(BaseModel):
    """An operating point: a chain of states with planes, trees and contexts of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    planes: int = Field(ge=1, description="how many of the manifest's planes, consecutively")
    states: int = Field(ge=1, description="how many of its states, consecutively")


class TailClass(BaseModel):
    """A class that a tail tells apart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: int = Field(ge=0, le=2**31 - 1)
    name: str = Field(min_length=1, max_length=80)


class TailModel(BaseModel):
    """Which network was cut in two, for results and licences."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=80)
    version: str = Field(min_length=1, max_length=80)
    licence: str = Field(min_length=1, max_length=80)


class TailSpec(BaseModel):
    """The rest of a network, which the cloud runs on decoded features instead of a picture.

    file: ONNX; one input float32 [N, C, h, w] a scale, by the scales' names, and where it wants
    to know the state, ``state`` int64 [N]. By ``output`` it gives:

    * boxes: ``boxes`` float32 [N, B, 4], x_min, y_min, x_max, y_max as shares of the network's
      input, and ``scores`` float32 [N, B, K], 0 to 1;
    * classes: ``scores`` float32 [N, K], probabilities;
    * labels: ``scores`` float32 [N, K, h, w], of which the greatest is the class.

    K is the number of ``classes``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    output: Literal["boxes", "classes", "labels"]
    file: str = Field("tail.onnx", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")
    classes: tuple[TailClass, ...] = Field(min_length=1, max_length=10_000)
    model: TailModel


LEAST: Final = 1e-9
"""Distortions and detail are raised to this, so that they have a logarithm."""


class PsnrRow(BaseModel):
    """The coefficients of one state."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    intercept: float
    distortion: dict[str, float] = Field(description="a, by name of scale")
    detail: tuple[float, float, float] = Field(description="b, for blocks of 2, 4 and 8 pixels")
    margin_db: float = Field(ge=0, le=60)

    def psnr(self, distortion: Mapping[str, float], detail: Sequence[float]) -> float:
        """Decibels to be expected, the margin taken off."""
        total = self.intercept
        for scale, weight in self.distortion.items():
            total += weight * math.log10(max(distortion[scale], LEAST))
        for weight, value in zip(self.detail, detail, strict=True):
            total += weight * math.log10(max(value, LEAST))
        return -10 * total - self.margin_db


class PsnrModel(BaseModel):
    """A row for every state, finest first."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rows: tuple[PsnrRow, ...] = Field(min_length=1, max_length=64)
    share: float = Field(gt=0, lt=1, description="of photos that are as good as expected")


class FeatureSettings(BaseModel):
    """The settings of a bundle of features."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scales: tuple[ScaleSpec, ...] = Field(min_length=1, max_length=8)
    planes: tuple[PlaneSpec, ...] = Field(min_length=1, max_length=64)
    states: tuple[DiffusionState, ...] = Field(min_length=1, max_length=64)
    input_multiple: int = Field(
        ge=1, le=256, description="pictures are padded to a multiple of this, by their edge pixels"
    )
    halo_positions: int = Field(
        ge=0,
        le=64,
        description="positions of the coarsest grid around a tile that reach its features",
    )
    resize: ResizeSpec | None = Field(
        default=None, description="None: pictures keep their size, and are padded"
    )
    chains: tuple[ChainSpec, ...] | None = Field(
        default=None, min_length=1, description="operating points, the finest first; None: one"
    )
    tails: tuple[TailSpec, ...] | None = Field(
        default=None, min_length=1, description="tasks that run on features, without a picture"
    )
    psnr_model: PsnrModel | None = Field(
        default=None, description="what PSNR to expect; None: no target can be set"
    )
    decoder: dict[str, Any] = Field(default_factory=dict, description="the decoder's own settings")
    other_decoders: dict[DecoderName, dict[str, Any]] | None = Field(
        default=None, description="the settings of more decoders of the same features, by name"
    )

    @model_validator(mode="after")
    def _consistent(self) -> FeatureSettings:
        scales = {scale.name: scale for scale in self.scales}
        for scale in self.scales:
            if self.input_multiple % scale.stride:
                raise ValueError(f"input_multiple is no multiple of the stride of {scale.name}")
        for plane in self.planes:
            if plane.scale not in scales:
                raise ValueError(f"plane {plane.name} names an unknown scale {plane.scale}")
            if plane.first_channel + plane.channels > scales[plane.scale].channels:
                raise ValueError(f"plane {plane.name} runs past the channels of its scale")
        if self.psnr_model is not None:
            if len(self.psnr_model.rows) != len(self.states):
                raise ValueError("the PSNR model needs a row for every state")
            for row in self.psnr_model.rows:
                if not set(row.distortion) <= set(scales):
                    raise ValueError("the PSNR model names an unknown scale")
        if len({plane.name for plane in self.planes}) != len(self.planes):
            raise ValueError("two planes share a name")
        self._check_chains()
        if self.resize is not None and (
            self.resize.width % self.input_multiple or self.resize.height % self.input_multiple
        ):
            raise ValueError("the size that pictures are brought to is no multiple of the strides")
        if len({tail.task for tail in self.tails or ()}) != len(self.tails or ()):
            raise ValueError("two tails do the same task")
        return self

    def _check_chains(self) -> None:
        if self.chains is None:
            return
        counted = [sum(getattr(chain, what) for chain in self.chains) for what in _CHAIN_PARTS]
        if counted != [len(self.planes), len(self.states)]:
            raise ValueError("the chains' planes and states are not the bundle's")
        if self.psnr_model is not None and len(self.chains) > 1:
            raise ValueError("the PSNR model is for bundles of one chain")

    @property
    def chain_parts(self) -> tuple[tuple[tuple[PlaneSpec, ...], tuple[DiffusionState, ...]], ...]:
        """Planes and states of every operating point, the finest first."""
        if self.chains is None:
            return ((self.planes, self.states),)
        parts, plane, state = [], 0, 0
        for chain in self.chains:
            parts.append(
                (
                    self.planes[plane : plane + chain.planes],
                    self.states[state : state + chain.states],
                )
            )
            plane, state = plane + chain.planes, state + chain.states
        return tuple(parts)

    def placement(self, width: int, height: int) -> Placement | None:
        """Where a picture of that size lies in the extractor's input, if it is brought to one."""
        if self.resize is None:
            return None
        return Placement.of(width, height, self.resize.width, self.resize.height, self.resize.fit)

    def grid_pixels(self, width: int, height: int) -> tuple[int, int]:
        """(rows, columns) in pixels of what the extractor sees of a picture of that size."""
        if self.resize is not None:
            return self.resize.height, self.resize.width
        rows, columns = (-(-side // self.input_multiple) for side in (height, width))
        return rows * self.input_multiple, columns * self.input_multiple

    @property
    def states_of_chains(self) -> tuple[StateSpec, ...]:
        """The states as the manifest's common part has them."""
        begins = {states[-1].state for _, states in self.chain_parts}
        return tuple(
            StateSpec(
                state=row.state,
                typical_bits_per_pixel=row.typical_bits_per_pixel,
                begins=row.state in begins,
            )
            for row in self.states
        )

    def sides(self) -> dict[str, Side]:
        """Who needs a file, by name; both need those that are not among them."""
        found: dict[str, Side] = dict.fromkeys(EXTRACTOR_FILES.values(), "edge")
        found[DECODER_FILE] = "cloud"
        found |= {decoder_file(name): "cloud" for name in self.other_decoders or ()}
        return found | {tail.file: "cloud" for tail in self.tails or ()}

    def manifest(self, pictures: Sequence[PictureSpec] = (), **common: Any) -> Manifest:
        """A manifest with these settings, before its files are known.

        common: name, version, codec, and what else the common part has that is not derived here.
        """
        values = {
            "states": self.states_of_chains,
            "scales_with_size": self.resize is None,
            "pictures": pictures,
            "tasks": tuple(tail.task for tail in self.tails or ()),
            "settings": self.model_dump(mode="json", exclude_none=True),
            "files": {},
        }
        return Manifest.model_validate(values | common)

    @classmethod
    def of(cls, bundle: Bundle) -> FeatureSettings:
        """A bundle's settings. Raises BundleError ``bad_manifest`` with what is wrong."""
        try:
            settings = cls.model_validate(bundle.manifest.settings)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "settings"
            raise BundleError("bad_manifest", f"manifest.json: {where}: {first['msg']}") from None
        if settings.states_of_chains != bundle.manifest.states:
            raise BundleError("bad_manifest", "manifest.json: settings.states: not those above")
        return settings


def with_settings(manifest: Manifest, **changes: Any) -> Manifest:
    """A manifest with some settings changed, and the common part that follows from them.

    Raises ValueError (pydantic's) when they contradict each other.
    """
    settings = FeatureSettings.model_validate(manifest.settings | changes)
    kept = ("name", "version", "description", "licence", "codec", "pictures", "files")
    return settings.manifest(**{name: getattr(manifest, name) for name in kept})


def create_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle of features into ``folder``: its files go to the sides that need them."""
    sides = FeatureSettings.model_validate(manifest.settings).sides()
    return Bundle.create(folder, manifest, files, sides)

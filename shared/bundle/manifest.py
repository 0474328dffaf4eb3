"""manifest.json: what a bundle is, how its states cut the chain, and its files' hashes."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from codec.markov_palette.palette import DiffusionState, PlaneSpec
from shared.bundle.psnr import PsnrModel
from shared.errors import BundleError
from shared.preprocess import Placement

FILE_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$"

StateSpec = DiffusionState

_CHAIN_PARTS = ("planes", "states")

FileName = Annotated[str, Field(pattern=FILE_NAME_PATTERN)]


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
    to be told the state, ``state`` int64 [N]. By ``output`` it gives:

    * boxes: ``boxes`` float32 [N, B, 4], x_min, y_min, x_max, y_max as shares of the network's
      input, and ``scores`` float32 [N, B, K], 0 to 1;
    * classes: ``scores`` float32 [N, K], probabilities;
    * labels: ``scores`` float32 [N, K, h, w], of which the greatest says the class.

    K is the number of ``classes``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    output: Literal["boxes", "classes", "labels"]
    file: FileName = "tail.onnx"
    classes: tuple[TailClass, ...] = Field(min_length=1, max_length=10_000)
    model: TailModel


class BundleFile(BaseModel):
    """A file of the bundle, by hash and size in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class Manifest(BaseModel):
    """The description of a bundle. Its canonical JSON's SHA-256 is the bundle's id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["featherwire-bundle/1"] = "featherwire-bundle/1"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    version: str = Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")
    description: str = ""
    licence: str = "Apache-2.0"
    codec: str = Field(pattern=r"^[a-z0-9-]{1,40}$", description="a name in the codec registry")
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
    files: dict[FileName, BundleFile]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
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

    def chain_of(self, state: int) -> tuple[DiffusionState, ...]:
        """The states of the chain that has ``state``. Raises IndexError when none has."""
        for _, states in self.chain_parts:
            if states[0].state <= state <= states[-1].state:
                return states
        raise IndexError(f"there is no state {state}")

    @property
    def starts(self) -> tuple[int, ...]:
        """The states that a bitstream can begin with: the coarsest of every chain."""
        return tuple(states[-1].state for _, states in self.chain_parts)

    @property
    def pictures(self) -> tuple[str, ...]:
        """Names of what makes pictures of the bundle's latents, the default first."""
        if "decoder.safetensors" not in self.files:
            return ()
        return ("faithful", "vivid") if self.decoder.get("variances") else ("faithful",)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that read the bundle's latents, without a picture."""
        return tuple(tail.task for tail in self.tails or ())

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
    def coarsest_state(self) -> int:
        """The coarsest diffusion state; the finest is 0."""
        return len(self.states) - 1

    @property
    def id(self) -> str:
        """The bundle's id: SHA-256 of the canonical manifest, 64 hex digits."""
        return hashlib.sha256(canonical_json(self)).hexdigest()

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read manifest.json. Raises BundleError ``bad_manifest`` with what is wrong."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "manifest"
            raise BundleError("bad_manifest", f"manifest.json: {where}: {first['msg']}") from None


def canonical_json(manifest: Manifest) -> bytes:
    """The manifest as JSON with sorted keys and no spaces: the bytes that are hashed."""
    values = manifest.model_dump(mode="json", exclude_none=True)
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

"""manifest.json: what a bundle is, how its states cut the chain, and its files' hashes."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.bundle.psnr import PsnrModel
from shared.errors import BundleError
from shared.palette import DiffusionState, PlaneSpec

FILE_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$"

FileName = Annotated[str, Field(pattern=FILE_NAME_PATTERN)]


class ScaleSpec(BaseModel):
    """One output of the extractor: ``channels`` values every ``stride`` pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9_]{1,40}$")
    stride: int = Field(ge=1, le=256)
    channels: int = Field(ge=1, le=1024)


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
        return self

    @property
    def coarsest_state(self) -> int:
        """The coarsest diffusion state; the finest is 0."""
        return len(self.states) - 1

    def passes(self, state: int) -> int:
        """Passes of the layer that leads to ``state``: two a split of every plane."""
        coarser = self.states[state + 1].depths if state < self.coarsest_state else ()
        return 2 * (sum(self.states[state].depths) - sum(coarser))

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

"""manifest.json: what a bundle is, what can be had of it, its files, and its codec's settings."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.bundle import format1
from shared.errors import BundleError

FORMAT: Final = "featherwire-bundle/2"
FILE_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$"

FileName = Annotated[str, Field(pattern=FILE_NAME_PATTERN)]
TaskName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Side = Literal["edge", "cloud", "both"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StateSpec(_Part):
    """A state at which a picture can be described, 0 finest."""

    state: int = Field(ge=0, le=255)
    typical_bits_per_pixel: float = Field(
        ge=0, allow_inf_nan=False, description="median over training photos"
    )
    begins: bool = Field(default=False, description="a bitstream can begin with this state")


class PictureSpec(_Part):
    """A decoder that makes pictures of the bundle's latents."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")
    generated: bool = Field(
        default=False, description="it shows what was never sent: nothing must be found in it"
    )


class BundleFile(_Part):
    """A file of the bundle: its hash, its size in bytes, and which side needs it."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)
    side: Side = "both"


class Manifest(_Part):
    """The description of a bundle. Its canonical JSON's SHA-256 is the bundle's id.

    States that follow each other up to one that ``begins`` are a chain: a bitstream begins with
    the chain's coarsest state and can be continued to its finest. ``settings`` are the codec's own,
    and read by the codec alone.
    """

    format: Literal["featherwire-bundle/1", "featherwire-bundle/2"] = FORMAT
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    version: str = Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")
    description: str = ""
    licence: str = "Apache-2.0"
    codec: str = Field(pattern=r"^[a-z0-9-]{1,40}$", description="a folder of codec/, with - for _")
    states: tuple[StateSpec, ...] = Field(min_length=1, max_length=64)
    scales_with_size: bool = Field(
        default=True, description="bits grow with the picture; False: it is brought to one size"
    )
    pictures: tuple[PictureSpec, ...] = Field(
        default=(), max_length=16, description="the default one first; none: it makes no picture"
    )
    tasks: tuple[TaskName, ...] = Field(
        default=(), max_length=64, description="what is found in latents, without a picture"
    )
    files: dict[FileName, BundleFile]
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if [row.state for row in self.states] != list(range(len(self.states))):
            raise ValueError("states are numbered from 0 up")
        if not self.states[-1].begins:
            raise ValueError("a bitstream must be able to begin with the coarsest state")
        for kind, names in (("decoders", [p.name for p in self.pictures]), ("tails", self.tasks)):
            if len(set(names)) != len(names):
                raise ValueError(f"two {kind} share a name")
        return self

    @property
    def starts(self) -> tuple[int, ...]:
        """The states that a bitstream can begin with: the coarsest of every chain."""
        return tuple(row.state for row in self.states if row.begins)

    def finest_of(self, state: int) -> int:
        """The finest state that a bitstream at ``state`` can be continued to.

        Raises IndexError when there is no such state.
        """
        if not 0 <= state <= self.coarsest_state:
            raise IndexError(f"there is no state {state}")
        return max((start + 1 for start in self.starts if start < state), default=0)

    @property
    def coarsest_state(self) -> int:
        """The coarsest state; the finest is 0."""
        return len(self.states) - 1

    @property
    def id(self) -> str:
        """The bundle's id: SHA-256 of the canonical manifest, 64 hex digits."""
        return hashlib.sha256(canonical_json(self)).hexdigest()

    def to_values(self) -> dict[str, Any]:
        """What manifest.json holds; :meth:`parse` is the inverse."""
        values = self.model_dump(mode="json", exclude_none=True)
        return format1.lowered(values) if self.format == format1.FORMAT else values

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read manifest.json, of this format or the first.

        Raises BundleError ``bad_manifest`` with what is wrong.
        """
        try:
            values = json.loads(data)
            if isinstance(values, dict) and values.get("format", format1.FORMAT) == format1.FORMAT:
                values = format1.lifted(values)
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "manifest"
            raise BundleError("bad_manifest", f"manifest.json: {where}: {first['msg']}") from None
        except (ValueError, RecursionError) as error:
            raise BundleError("bad_manifest", f"manifest.json: {error}") from None


def canonical_json(manifest: Manifest) -> bytes:
    """The manifest as JSON with sorted keys and no spaces: the bytes that are hashed."""
    values = manifest.to_values()
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

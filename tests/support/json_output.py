"""What a command printed with ``--json``, held to the schema in the documents."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from jsonschema import Draft202012Validator

from tests.support.servers import ROOT

PROGRAMS = {
    "shared.cli.featherwire": "featherwire",
    "edge_client": "featherwire-edge",
    "cloud_server": "featherwire-cloud",
    "training": "featherwire-train",
}
"""Commands by the package that has them."""


@functools.cache
def schema() -> dict[str, Any]:
    """The published schema."""
    path = ROOT / "docs" / "reference" / "commands.schema.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def command_of(package: str, words: Sequence[str]) -> str:
    """The command of a command line, as the schema names it."""
    path = PROGRAMS[package]
    for word in words:
        longer = f"{path} {word}"
        if not any(f"{name} ".startswith(f"{longer} ") for name in schema()["$defs"]):
            break
        path = longer
    return path


def documents(package: str, words: Sequence[str], stdout: str) -> list[Any]:
    """The documents that were printed: one, or one a line; each is as the schema has it.

    Raises AssertionError, and jsonschema's ValidationError.
    """
    name = command_of(package, words)
    if name == PROGRAMS[package]:  # no command, or a step of a recipe
        name = "featherwire-train STEP" if package == "training" else "featherwire-edge encode"
    lines = schema()["$defs"][name]["description"] == "Each line."
    texts = stdout.splitlines() if lines else [stdout]
    found = [json.loads(text) for text in texts]
    validator = Draft202012Validator({"$ref": f"#/$defs/{quote(name)}", "$defs": schema()["$defs"]})
    for document in found:
        validator.validate(document)
    return found

"""Writes docs/reference/commands.schema.json: what commands print with ``--json``.

    python docs/_site/schema.py

A test compares the file with what this gives, and commands with the file.
"""

from __future__ import annotations

import json
from pathlib import Path

from cloud_server.cli import documents as cloud
from edge_client.cli import documents as edge
from shared.cli import documents as shared
from training.cli import documents as train

PLACE = Path(__file__).resolve().parents[1] / "reference" / "commands.schema.json"


def text() -> str:
    """The schema of all commands, as the file has it."""
    documents = {
        **shared.DOCUMENTS, **edge.DOCUMENTS, **cloud.DOCUMENTS, **train.DOCUMENTS,
    }  # fmt: skip
    schema = shared.schema_of(documents, {**edge.LINES, **cloud.LINES})
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")

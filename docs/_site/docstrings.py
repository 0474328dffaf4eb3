"""Docstrings as Markdown: drawings and columns stay as they are drawn, roles are plain code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|meth|class|mod|attr|data):`~?([^`]+)`")
# Boxes, arrows, or a column that begins behind several spaces.
_DRAWN = re.compile(r"[\u2500-\u257f\u25b2\u25b6\u25bc\u25c0]|-->|\S {2,}\S")


class Markdown(griffe.Extension):
    """Rewrites docstrings before they are rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring with its drawn paragraphs fenced."""
    paragraphs = _ROLE.sub(r"`\1`", text).split("\n\n")
    return "\n\n".join(map(_fenced, paragraphs))


def _fenced(paragraph: str) -> str:
    lines = paragraph.split("\n")
    drawn = sum(bool(_DRAWN.search(line)) for line in lines)
    if 2 * drawn <= len(lines) or lines[0].lstrip().startswith("```"):
        return paragraph
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(["```text", *(line[indent:] for line in lines), "```"])

"""A file of settings, and complaints about it: which file, which line, and which name was meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from shared.errors import FeatherwireError


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """Where the settings of a YAML file stand: by name in lower case, the line, from 1."""

    path: Path
    lines: Mapping[str, int] = field(default_factory=dict)

    def at(self, name: str) -> str:
        """The file, and the line of setting ``name`` where it is one of the file's."""
        return self._line(self.lines.get(name.lower()))

    def _line(self, line: int | None) -> str:
        return f"{self.path}" if line is None else f"{self.path}, line {line}"


def read_settings_file(path: Path) -> SettingsFile:
    """The file's names and lines.

    Raises ``FeatherwireError("invalid_settings")`` where it cannot be read, is no YAML, or not one
    mapping of names to values; it says the file, and the line where there is one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(
            f"{path}: is no text in UTF-8 ({error.reason} at byte {error.start})"
        ) from None
    except OSError as error:
        raise _invalid(f"{path}: {error.strerror or error}") from None
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        yaml.safe_load(text)  # tags and keys that it cannot take
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}" if mark is None else f"{path}, line {mark.line + 1}"
        context = f" {error.context}" if error.context else ""
        raise _invalid(f"{where}: is no valid YAML: {error.problem or 'broken'}{context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise _invalid(f"{path}: is no valid YAML: {str(error).splitlines()[0]}") from None
    if node is None:
        return SettingsFile(path)
    if not isinstance(node, yaml.MappingNode):
        raise _invalid(f"{path}: holds no settings: each is `name: value` on a line of its own")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            name = key.value if isinstance(key, yaml.ScalarNode) else "that"
            raise _invalid(f"{path}, line {line}: unknown setting {name!r}: a name is a word")
        lines[key.value.lower()] = line
    return SettingsFile(path, lines)


def unknown_setting(name: str, known: Collection[str]) -> str:
    """That there is no setting ``name``, and the nearest of the ``known`` where one is near."""
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    return f"unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def complaint(item: Mapping[str, Any], where: str, known: Collection[str]) -> str:
    """One of pydantic's complaints, in a line; ``where`` says what has set it, or is empty."""
    prefix = f"{where}: " if where else ""
    if item["type"] == "extra_forbidden":
        return prefix + unknown_setting(str(item["loc"][0]), known)
    name = ".".join(map(str, item["loc"])) or "settings"
    return f"{prefix}{name}: {item['msg'].removeprefix('Value error, ')}"


def _invalid(message: str) -> FeatherwireError:
    return FeatherwireError("invalid_settings", message)

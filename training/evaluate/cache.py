"""Figures measured before, by photo, codec and metric group: rivals are measured once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from training.evaluate.metrics.base import Figures

CACHE_VARIABLE = "FEATHERWIRE_BENCH_CACHE"


def default_cache_dir() -> Path:
    """``$FEATHERWIRE_BENCH_CACHE``, else ``~/.cache/featherwire/bench``."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache/featherwire/bench"


class PointCache:
    """One small JSON file for each (metric group and version, photo, codec)."""

    def __init__(self, folder: Path | None) -> None:
        """folder: None keeps nothing."""
        self._folder = folder

    def read(self, group: str, photo: str, codec: str) -> dict[int, Figures]:
        """Figures by knob; empty when there are none, or the file is damaged."""
        path = self._path(group, photo, codec)
        if path is None:
            return {}
        try:
            document = json.loads(path.read_text())
            if document["codec"] != codec or document["photo"] != photo:
                return {}
            return {int(knob): dict(figures) for knob, figures in document["points"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def write(self, group: str, photo: str, codec: str, points: dict[int, Figures]) -> None:
        """Keep the figures; a file appears whole or not at all."""
        path = self._path(group, photo, codec)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"codec": codec, "photo": photo, "points": points}
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(document))
        partial.replace(path)

    def _path(self, group: str, photo: str, codec: str) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(codec.encode()).hexdigest()[:16]
        return self._folder / group / photo[:24] / f"{name}.json"

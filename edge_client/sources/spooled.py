"""Files whose frames the spool has had since a run before, so that none is sent twice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_client.sources.base import Source
from edge_client.sources.stills import FilesSource, FolderSource, photo_time
from shared.names import text_of


class SpooledFiles:
    """Frames that a process left in the spool when it was killed, and the files that they are of.

    A file is that of a frame when both its name and the time of its picture are the frame's.
    """

    def __init__(self, frames: Iterable[tuple[str, float]]) -> None:
        """frames: source and time (seconds since 1970) of what the spool has no result of yet."""
        self._frames = {_key(name, captured_at) for name, captured_at in frames}
        self._moved: set[str] = set()
        self.found = 0
        """How many files were those of frames."""

    def files(self, source: Source) -> Iterator[Path]:
        """The files that are there, and that ``source`` would bring again."""
        if not self._frames or not isinstance(source, FilesSource | FolderSource):
            return
        names = {name for name, _ in self._frames}
        for file in source.files():
            if os.path.abspath(text_of(file)) in names and self._take(file, photo_time(file)):
                self._moved.add(os.path.abspath(text_of(file)))
                yield file

    def has(self, file: Path, captured_at: float) -> bool:
        """Whether the spool has a frame of this file, for which it is not to be sent again: once,
        for a file may be written anew. One that ``files`` gave is not there any more."""
        if os.path.abspath(text_of(file)) in self._moved and not os.path.lexists(file):
            return True
        return self._take(file, captured_at)

    def put_back(self, file: Path) -> None:
        """A file that ``files`` gave has stayed where it was."""
        self._frames.add(_key(text_of(file), photo_time(file)))
        self.found -= 1

    def _take(self, file: Path, captured_at: float) -> bool:
        key = _key(text_of(file), captured_at)
        if key not in self._frames:
            return False
        self._frames.remove(key)
        self.found += 1
        return True


def _key(name: str, captured_at: float) -> tuple[str, int]:
    """What tells files apart: the full path, and the time to the microsecond, as spools keep it."""
    return os.path.abspath(name), round(captured_at * 1e6)

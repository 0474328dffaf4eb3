"""Reading the files that a command was given: regular ones only, and no more than is allowed."""

from __future__ import annotations

import stat
from pathlib import Path

from shared.errors import FeatherwireError
from shared.limits import DEFAULT_LIMITS


def read_file(path: Path, *, max_bytes: int = DEFAULT_LIMITS.max_photo_bytes) -> bytes:
    """The file's bytes.

    Raises FeatherwireError: ``not_found``, ``not_a_file`` (a folder, a pipe, a device),
    ``limit_exceeded``, ``unreadable``.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise FeatherwireError("not_a_file", "not a regular file")
        if facts.st_size > max_bytes:
            raise FeatherwireError(
                "limit_exceeded", f"{facts.st_size} bytes are more than {max_bytes}"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise FeatherwireError("not_found", "there is no such file") from None
    except OSError as error:
        raise FeatherwireError("unreadable", error.strerror or str(error)) from None

"""Every error that Featherwire raises on purpose.

    FeatherwireError
    ├── BitstreamError   bytes that are no valid .fwf, or not for this bundle
    ├── BundleError      a bundle that is incomplete, damaged, or of another kind
    ├── PhotoError       a picture that cannot be read, or has a size we refuse
    ├── BudgetError      a rate that no state of the bundle can meet
    ├── ModelError       weights that are missing or have the wrong hash
    ├── TaskError        a task that is unknown or failed on a picture
    ├── SessionError     a peer that is unreachable, refused us, or broke the protocol
    ├── StorageError     a database that is damaged, full, in use, or newer than this release
    ├── SpoolError       a device's store of frames that is full, unwritable, or in use
    ├── SourceError      a camera, a stream or a video that is away, damaged, or not understood
    ├── SinkError        a place for results that is away, refuses them, or is not understood
    └── RecipeError      a recipe that cannot be followed, or a step whose inputs are not there yet

``reason`` is a stable, machine-readable snake_case word; the message is for people.
"""

from __future__ import annotations

from typing import Any


class FeatherwireError(Exception):
    """Base of all errors here: a stable ``reason``, a message, and structured ``details``."""

    def __init__(self, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.details = details

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-ready values: ``error`` (class), ``reason``, ``message``, details."""
        return {
            "error": type(self).__name__,
            "reason": self.reason,
            "message": self.message,
            **self.details,
        }


class BitstreamError(FeatherwireError):
    """Bytes that are not a valid bitstream; ``offset`` is where (in bytes), when known."""

    def __init__(self, reason: str, message: str, *, offset: int | None = None, **details: Any):
        if offset is not None:
            message = f"{message} (at byte {offset})"
            details["offset"] = offset
        super().__init__(reason, message, **details)
        self.offset = offset


class BundleError(FeatherwireError):
    """A bundle that is incomplete, damaged, forged, or of an unsupported kind."""


class PhotoError(FeatherwireError):
    """A picture that cannot be read, or whose size or mode is refused."""


class BudgetError(FeatherwireError):
    """A byte budget or distortion target that no state of the bundle can meet."""


class ModelError(FeatherwireError):
    """Weights that are missing or fail their hash; ``command`` is what would get them."""

    def __init__(self, reason: str, message: str, *, command: str | None = None, **details: Any):
        if command is not None:
            message = f"{message}; get it with: {command}"
            details["command"] = command
        super().__init__(reason, message, **details)
        self.command = command


class TaskError(FeatherwireError):
    """A task that is unknown, or that failed on a picture."""


class SessionError(FeatherwireError):
    """A peer that is unreachable, refused us, or broke the protocol."""


class StorageError(FeatherwireError):
    """A database that is damaged, full, in use, unreachable, or newer than this release."""


class SpoolError(FeatherwireError):
    """A device's store of unacknowledged frames that is full, cannot be written, or is in use."""


class SourceError(FeatherwireError):
    """A camera, a stream or a video that is away, damaged, or not understood."""


class SinkError(FeatherwireError):
    """A place for results that is away, refuses them, or is not understood."""


class RecipeError(FeatherwireError):
    """A recipe that cannot be followed, or a step whose inputs are not there yet."""

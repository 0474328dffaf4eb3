"""Types of what featherwire-edge prints with ``--json``; see ``shared.cli.documents``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from shared.cli.documents import Document, Ended, Error, Files, Rate
from shared.results import AnalysisResult


class Encoded(Rate):
    """A photo that became a file."""

    photo: str
    file: str
    width: int
    height: int
    bundle: str
    """The short id, in hexadecimal digits."""
    bundle_id: str


class StateSize(Document):
    """A state of a file, and the file's size when it is cut there."""

    state: int
    bytes: int
    bits_per_pixel: float


class PartialLayer(Document):
    """A part of the next finer layer."""

    state: int
    passes: int
    of_passes: int | None
    """None where the bundle is not known."""
    bytes: int


class FrameReference(Document):
    """The frame with which a predicted one is decoded."""

    distance: int
    checksum: str


class Inspected(Document):
    """What a file of features holds."""

    file: str
    format: int
    bundle: str
    bundle_id: str | None
    bundle_name: str | None
    decoders: list[str]
    """Of the bundle, the default first; none where it makes no pictures, or is not known."""
    bundle_text: str
    width: int
    height: int
    state: int
    bytes: int
    complete_bytes: int
    bits_per_pixel: float
    states: list[StateSize]
    partial: PartialLayer | None
    reference: FrameReference | None
    cut: Error | None
    """Of a file whose end is missing: what is wrong with it."""
    warning: str | None
    states_text: str


class Truncated(Rate):
    """A smaller file that was made of another."""

    source: str
    file: str


class Sent(Document):
    """What the server found in a photo."""

    photo: str
    sequence: int
    refined: bool
    """The server had asked for more of it."""
    bundle: str
    state: int
    passes: int
    bytes: int
    bits_per_pixel: float
    round_trip_ms: float | None
    """None where it was sent by an earlier process."""
    found: str
    analysis: AnalysisResult
    task_errors: dict[str, Error] = Field(default={})
    """By the task's name; left out where there are none."""
    picture_error: Error | None = None
    picture: str | None = None
    """The file of the reconstruction, where one was asked for."""
    file: str | None = None
    """The file of this record, where there is an output folder."""


class Found(Document):
    """A frame's result: of its analysis and its error one is null."""

    event: Literal["result"]
    id: str
    device: str
    session: str
    sequence: int
    source: str
    captured_at: str | None
    completed_at: str | None
    bundle: str
    state: int
    bytes: int
    bits_per_pixel: float | None
    round_trip_ms: float | None
    refined: bool
    cursor: int | None
    found: str
    analysis: AnalysisResult | None
    error: Error | None
    task_errors: dict[str, Error]


class SourceStatus(Document):
    """How the source does."""

    name: str
    state: str
    error: Error | None
    captured: int
    reconnects: int
    damaged: int


class QueueStatus(Document):
    """What waits for the server."""

    frames: int
    bytes: int
    awaited: int
    """Frames that the server has, and whose results are to come."""


class _Status(Document):
    source: SourceStatus
    online: bool
    offline: Error | None
    frames_per_second: float
    bits_per_second: int
    bits_per_pixel: float | None
    round_trip_ms: float | None
    state: int | None
    last_error: Error | None
    sent: int
    key_frames: int
    """Of those that were sent, the ones that stand alone."""
    predicted_frames: int
    results: int
    failed: int
    bytes: int
    dropped: dict[str, int]
    queue: QueueStatus
    sinks: dict[str, dict[str, int]]


class StreamStatus(_Status):
    """How the stream goes, every --status-every seconds; rates are of the last ten seconds."""

    event: Literal["status"]


class StreamEnd(_Status):
    """The last line."""

    event: Literal["end"]


class ConnectionChanged(Document):
    """The server is there, or away and why."""

    event: Literal["connection"]
    online: bool
    error: Error | None


class SettingChanged(Document):
    """An operator has set something."""

    event: Literal["setting"]
    set: Literal["rate", "tasks", "regions", "bundle"]
    text: str
    overrides: list[str]
    """Options of the command line that do not count beside it."""


class Unreadable(Document):
    """A picture of the source that could not be read."""

    event: Literal["unreadable"]
    file: str
    error: Error


Line = Found | StreamStatus | StreamEnd | ConnectionChanged | SettingChanged | Unreadable | Ended

DOCUMENTS: Mapping[str, Any] = {
    "featherwire-edge encode": Files[Encoded],
    "featherwire-edge inspect": Files[Inspected],
    "featherwire-edge truncate": Files[Truncated],
    "featherwire-edge send": Files[Sent],
    "featherwire-edge flush": Files[Sent],
}
LINES: Mapping[str, Any] = {"featherwire-edge stream": Line}

"""What commands about a server print with ``--json``."""

from __future__ import annotations

from typing import Any, Literal

from shared.cli.documents import Document, Error, Rate
from shared.results import AnalysisResult


class Ready(Document):
    """A server that takes devices: where, and what it has."""

    listening: str
    log: str
    metrics_port: int | None
    console: str | None
    bundle: str
    bundles: dict[str, str]
    """Ids by name."""
    tasks: list[str]
    unavailable: dict[str, Error]
    """Why a task cannot be had, by its name."""


class Result(Document):
    """A frame's result: of its analysis and its error one is null."""

    cursor: int
    device: str
    session: str
    sequence: int
    bundle_short_id: str
    state: int
    captured_at: str | None
    completed_at: str | None
    analysis: AnalysisResult | None
    error: Error | None
    task_errors: dict[str, Error]


class Results(Document):
    """Results of a log, oldest first."""

    results: list[Result]
    error: Error | None = None
    """Where they ended too early."""


class SavedFrame(Rate):
    """A frame's features, as a file."""

    file: str
    picture: str | None = None


class Device(Document):
    """A device that has connected once."""

    device: str
    session: str
    online: bool
    last_seen_at: str
    bundle_id: str
    bundle_name: str
    client_version: str
    state: int | None
    frames_per_second: float
    bytes_per_second: float
    throttled: bool
    queued_frames: int
    queued_bytes: int
    pending_commands: int
    rate_policy: dict[str, Any]
    tasks: list[str]
    regions: list[dict[str, Any]]
    labels: dict[str, str]


class Devices(Document):
    """Devices of a server."""

    devices: list[Device]
    error: Error | None = None


class SentCommand(Document):
    """A command that waits for its device."""

    device: str
    id: str


class SentCommands(Document):
    """Commands by device."""

    sent: list[SentCommand]
    error: Error | None = None


class Command(Document):
    """A command, and what became of it: pending, done, or the reason of an error."""

    id: str
    device: str
    issued: str
    by: str
    command: dict[str, dict[str, Any]]
    outcome: str
    message: str | None
    replied: str | None


class Commands(Document):
    """Commands, oldest first."""

    commands: list[Command]
    error: Error | None = None


class Cancelled(Document):
    """A command that was taken back, or had its answer already."""

    id: str
    cancelled: bool


class CancelledCommands(Document):
    """Commands that were named."""

    commands: list[Cancelled]
    error: Error | None = None


class Forgotten(Document):
    """A device that is in the list no more."""

    device: str
    forgotten: Literal[True]


class ForgottenDevices(Document):
    """Devices that were named, as far as they could be forgotten."""

    devices: list[Forgotten]
    error: Error | None = None


class Entry(Document):
    """Who did what, and when."""

    id: int
    at: str
    who: str
    action: str
    what: dict[str, Any]


class Audit(Document):
    """Entries, oldest first."""

    entries: list[Entry]
    error: Error | None = None


class Token(Document):
    """A token, without its secret."""

    id: str
    role: Literal["device", "operator", "consumer"]
    device: str | None
    name: str
    labels: dict[str, str]
    created: str
    expires: str | None
    state: str


class Tokens(Document):
    """All tokens, expired and revoked ones too."""

    tokens: list[Token]


class ShownToken(Token):
    """A token that was made, with its secret."""

    token: str


class SavedToken(Token):
    """A token that was made, and is in a file."""

    file: str


class NoToken(Document):
    """No token was made, as --if-missing or --if-none wants it."""

    made: Literal[False]
    why: str


class Certificates(Document):
    """Files that were written."""

    files: list[str]
    ends: str | None
    """When the certificates that were signed end, ISO 8601; null where none was."""


class LoadTested(Document):
    """A load test in numbers; times are in milliseconds, by quantile."""

    devices: int
    seconds: float
    frames_per_second: float
    bytes_per_second: float
    ack_ms: dict[str, float]
    result_ms: dict[str, float]
    sent: int
    acknowledged: int
    results: int
    lost: int
    """Sent, and without a result when the test ended."""
    doubled: int
    skipped: int
    """Due while the server gave no credit."""
    sent_again: int
    connections: int
    gave_up: int
    """Devices that were refused for good."""
    own_lag_ms: dict[str, float]
    """By how much the test itself was late."""
    frame_errors: dict[str, int]
    stream_errors: dict[str, int]
    whole: bool
    """Every frame has one result, and no device was refused."""
    hint: str | None

"""Making room in a spool: by age, and by a policy when it is full; and what was dropped for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from edge_client.spool.database import Database
from shared.errors import BitstreamError, SpoolError
from shared.proto.featherwire.v1 import ingest_pb2, types_pb2
from shared.wire.features import features_message, header_of, parse_features


class SpoolPolicy(StrEnum):
    """What gives way when the spool is full.

    oldest: the oldest frames are dropped. newest: the frame that comes is refused. coarsen: queued
    frames lose their finest layers first, the finest frames before others; when none has a layer
    to lose, the oldest are dropped.
    """

    OLDEST = "oldest"
    NEWEST = "newest"
    COARSEN = "coarsen"


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """How much a spool holds, and for how long.

    ``max_bytes``: of the queued frames' messages. ``max_age_s``: seconds that the device ran
    since a frame was queued; None is no limit."""

    max_bytes: int = 256 * 2**20
    max_age_s: float | None = 7 * 86400.0
    policy: SpoolPolicy = SpoolPolicy.COARSEN

    def __post_init__(self) -> None:
        if self.max_bytes <= 0 or (self.max_age_s is not None and not self.max_age_s > 0):
            raise SpoolError("bad_limits", "a spool's limits must be above 0")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that will not be sent, and why."""

    sequence: int
    source: str
    error: SpoolError


Row = tuple[int, str]
"""Sequence and source of a frame that was dropped."""


def drop_old(database: Database, before_s: float) -> list[Row]:
    """Drop frames that were queued before this time of the spool's clock. Inside a transaction."""
    rows = database.rows("SELECT sequence, source FROM frames WHERE at_s < ?", before_s)
    database.execute("DELETE FROM frames WHERE at_s < ?", before_s)
    return [(_int(sequence), str(source)) for sequence, source in rows]


def drop_oldest(database: Database, excess_bytes: int) -> tuple[list[Row], int]:
    """Drop frames until ``excess_bytes`` are gone; those that may be on their way go last.

    Returns the frames and their bytes. Inside a transaction.
    """
    dropped: list[Row] = []
    freed = 0
    while freed < excess_bytes:
        rows = database.rows(
            "SELECT sequence, source, bytes FROM frames ORDER BY sent, sequence LIMIT 1"
        )
        if not rows:
            break
        ((sequence, source, size),) = rows
        database.execute("DELETE FROM frames WHERE sequence = ?", sequence)
        dropped.append((_int(sequence), str(source)))
        freed += _int(size)
    return dropped, freed


def coarsen(database: Database, excess_bytes: int) -> tuple[int, int]:
    """Cut the finest layers of frames that were not sent until ``excess_bytes`` are gone.

    A frame that may have reached the server stays as it is: it is known there by its state.
    Returns how many cuts were made, and the bytes. Inside a transaction.
    """
    cuts = freed = 0
    while freed < excess_bytes:
        rows = database.rows(
            "SELECT sequence, message, bytes FROM frames WHERE coarsest = 0 AND sent = 0 "
            "ORDER BY state, sequence LIMIT 1"
        )
        if not rows:
            break
        ((sequence, data, size),) = rows
        assert isinstance(data, bytes)
        cut = coarser(ingest_pb2.Frame.FromString(data))
        if cut is None:
            database.execute("UPDATE frames SET coarsest = 1 WHERE sequence = ?", sequence)
            continue
        message = cut.SerializeToString()
        database.execute(
            "UPDATE frames SET message = ?, bytes = ?, state = ?, coarsest = ? WHERE sequence = ?",
            message,
            len(message),
            finest_state(cut),
            not can_coarsen(cut),
            sequence,
        )
        cuts += 1
        freed += _int(size) - len(message)
    return cuts, freed


def can_coarsen(frame: ingest_pb2.Frame) -> bool:
    """Whether ``coarser`` would find something to cut."""
    return any(_cuttable(features) for features in frame.features)


def coarser(frame: ingest_pb2.Frame) -> ingest_pb2.Frame | None:
    """The frame without the last layer of its largest bitstream that has more than one.

    A partial layer goes first. None when each has a single layer, as bundles of single-state
    chains make them.
    """
    cut = ingest_pb2.Frame()
    cut.CopyFrom(frame)
    candidates = [features for features in cut.features if _cuttable(features)]
    for largest in sorted(candidates, key=lambda one: one.ByteSize(), reverse=True):
        try:
            bitstream = parse_features(largest)
        except BitstreamError:
            continue  # what is damaged is the server's to refuse
        state = bitstream.state if bitstream.partial is not None else bitstream.layers[-2].state
        largest.CopyFrom(features_message(bitstream.truncate(state)))
        return cut
    return None


def finest_state(frame: ingest_pb2.Frame) -> int:
    """The finest state of those bitstreams that can be cut; of all when none can."""
    states = [_state(features) for features in frame.features if _cuttable(features)]
    return min(states or map(_state, frame.features), default=0)


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _cuttable(features: types_pb2.Features) -> bool:
    """A predicted frame stays as it is: the ones behind it may be decoded with all of it."""
    try:
        header = header_of(features)
    except BitstreamError:
        return False
    return header.reference is None and (header.layers > 1 or header.has_partial)


def _state(features: types_pb2.Features) -> int:
    try:
        return header_of(features).state
    except BitstreamError:
        return 0


def refer_anew(frame: ingest_pb2.Frame, old: int, numbers: Mapping[int, int]) -> None:
    """Let the references of a frame that was numbered ``old`` point to where their frames are now.

    numbers: new sequences by old ones. The reference of a frame that has none stays as it is: the
    server does not have what it is of, and says so.
    """
    for features in frame.features:
        try:
            if header_of(features).reference is None:
                continue
            bitstream = parse_features(features)
        except BitstreamError:
            continue
        reference = bitstream.reference
        if reference is not None and (there := numbers.get(old - reference.distance)) is not None:
            moved = replace(reference, distance=numbers[old] - there)
            features.CopyFrom(features_message(replace(bitstream, reference=moved)))

"""Making room in a spool: by age, and by a policy when it is full; and what was dropped for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

from edge_client.spool.database import Database
from shared.errors import BitstreamError, SpoolError
from shared.proto.featherwire.v1 import ingest_pb2, types_pb2
from shared.wire.features import features_message, header_of, parse_features, passes_of


class SpoolPolicy(StrEnum):
    """What gives way when the spool is full.

    oldest: frames of the oldest group of pictures are dropped, its last one first. newest: the
    frame that comes is refused. coarsen: queued frames lose their finest layers first, the finest
    before others, and with them those that refer to them; when none has a layer to lose, it is as
    with oldest.
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
    """Drop frames that were queued before this time of the spool's clock, and with them those that
    refer to them. Inside a transaction."""
    old = database.rows(
        "SELECT first, MIN(sequence) FROM frames WHERE at_s < ? GROUP BY first", before_s
    )
    return [row for first, since in old for row in drop_rest(database, first, since)[0]]


def drop_rest(database: Database, first: object, since: object) -> tuple[list[Row], int]:
    """Drop a frame and the frames of its group after it, which refer to it; returns them and their
    bytes.

    first: of the group. since: the frame. Inside a transaction.
    """
    rows = database.rows(
        "SELECT sequence, source, bytes FROM frames WHERE first = ? AND sequence >= ? "
        "ORDER BY sequence",
        first,
        since,
    )
    database.execute("DELETE FROM frames WHERE first = ? AND sequence >= ?", first, since)
    found = [(_int(sequence), str(source)) for sequence, source, _ in rows]
    return found, sum(_int(size) for _, _, size in rows)


def drop_oldest(
    database: Database, excess_bytes: int, but: int | None = None
) -> tuple[list[Row], int]:
    """Drop frames until ``excess_bytes`` are gone: from the end of the oldest group, then of the
    next one. Groups that may be on their way as a whole go last.

    but: the first frame of a group of which nothing is dropped. Returns the frames and their
    bytes; too few where no more may be dropped. Inside a transaction.
    """
    dropped: list[Row] = []
    freed = 0
    while freed < excess_bytes:
        groups = database.rows(
            "SELECT first FROM frames WHERE first IS NOT ? ORDER BY sent, sequence LIMIT 1", but
        )
        if not groups:
            break
        ((first,),) = groups
        ((last,),) = database.rows("SELECT MAX(sequence) FROM frames WHERE first = ?", first)
        rows, size = drop_rest(database, first, last)
        dropped += rows
        freed += size
    return dropped, freed


@dataclass(slots=True)
class Cuts:
    """What coarsening has made: how many frames it cut, the bytes, and the states of each now."""

    count: int = 0
    freed: int = 0
    frames: dict[int, dict[bytes, Reached]] = field(default_factory=dict)


def coarsen(database: Database, excess_bytes: int) -> Cuts:
    """Cut the finest layers of frames that were not sent until ``excess_bytes`` are gone.

    A frame that may have reached the server stays as it is: it is known there by its state. Where
    a frame becomes coarser, those of its group after it do that are finer: they look at layers of
    it that it has no more. Inside a transaction.
    """
    cuts = Cuts()
    while cuts.freed < excess_bytes:
        rows = database.rows(
            "SELECT sequence, first, message FROM frames WHERE coarsest = 0 AND sent = 0 "
            "ORDER BY state, sequence LIMIT 1"
        )
        if not rows:
            break
        ((sequence, first, data),) = rows
        assert isinstance(data, bytes)
        where = next_cut(ingest_pb2.Frame.FromString(data))
        if where is None:
            database.execute("UPDATE frames SET coarsest = 1 WHERE sequence = ?", sequence)
            continue
        _cut_rest(database, _int(first), _int(sequence), *where, cuts)
    return cuts


def _cut_rest(
    database: Database, first: int, since: int, short_id: bytes, state: int, cuts: Cuts
) -> None:
    """Cut a bundle's part of a frame to a state, and of those after it which that concerns."""
    sequence = since
    while rows := database.rows(
        "SELECT sequence, message, bytes FROM frames WHERE first = ? AND sequence >= ? "
        "ORDER BY sequence LIMIT 1",
        first,
        sequence,
    ):
        ((found, data, size),) = rows
        assert isinstance(data, bytes)
        frame = ingest_pb2.Frame.FromString(data)
        if not cut(frame, short_id, state, following=_int(found) > since):
            break
        message = frame.SerializeToString()
        database.execute(
            "UPDATE frames SET message = ?, bytes = ?, state = ?, coarsest = ? WHERE sequence = ?",
            message,
            len(message),
            finest_state(frame),
            not can_coarsen(frame),
            found,
        )
        cuts.count += 1
        cuts.freed += _int(size) - len(message)
        cuts.frames[_int(found)] = reached(frame)
        sequence = _int(found) + 1


def cut(frame: ingest_pb2.Frame, short_id: bytes, state: int, *, following: bool) -> bool:
    """Cut a bundle's part of a frame to a state in place; False where it stays as it is.

    following: only where it refers to the frame before it.
    """
    for features in frame.features:
        if features.bundle_short_id != short_id:
            continue
        try:
            bitstream = parse_features(features)
            if following and bitstream.reference is None:
                return False
            if bitstream.state > state or (bitstream.state == state and bitstream.partial is None):
                return False
            features.CopyFrom(features_message(bitstream.truncate(state)))
        except BitstreamError:
            return False
        return True
    return False


def can_coarsen(frame: ingest_pb2.Frame) -> bool:
    """Whether there is something to cut of a frame."""
    return any(_cuttable(features) for features in frame.features)


def next_cut(frame: ingest_pb2.Frame) -> tuple[bytes, int] | None:
    """The bundle and the state to which a frame is cut next: without the last layer of its largest
    bitstream that has more than one.

    A partial layer goes first. None when each has a single layer, as bundles of single-state
    chains make them.
    """
    candidates = [features for features in frame.features if _cuttable(features)]
    for largest in sorted(candidates, key=lambda one: one.ByteSize(), reverse=True):
        try:
            bitstream = parse_features(largest)
        except BitstreamError:
            continue  # what is damaged is the server's to refuse
        whole = bitstream.partial is None
        state = bitstream.layers[-2].state if whole else bitstream.state
        return largest.bundle_short_id, state
    return None


def finest_state(frame: ingest_pb2.Frame) -> int:
    """The finest state of those bitstreams that can be cut; of all when none can."""
    states = [_state(features) for features in frame.features if _cuttable(features)]
    return min(states or map(_state, frame.features), default=0)


Reached = tuple[int, int]
"""The finest complete state of a bitstream, and the passes of the next layer."""


def reached(frame: ingest_pb2.Frame) -> dict[bytes, Reached]:
    """What a frame says of the picture by each of its bundles (short ids)."""
    return {
        features.bundle_short_id: (_state(features), passes_of(features))
        for features in frame.features
    }


def reference_of(frame: ingest_pb2.Frame) -> int | None:
    """The sequence of the frame that a frame refers to: the farthest where there are several; None
    where it stands alone. What is damaged is the server's to refuse."""
    distances: list[int] = []
    for features in frame.features:
        with suppress(BitstreamError):
            reference = header_of(features).reference
            distances += [] if reference is None else [reference.distance]
    return frame.sequence - max(distances) if distances else None


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _cuttable(features: types_pb2.Features) -> bool:
    try:
        header = header_of(features)
    except BitstreamError:
        return False
    return header.layers > 1 or header.has_partial


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

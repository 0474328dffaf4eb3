"""Groups of pictures in a spool: to which one a frame belongs, and how long one is kept.

A group's frames refer to each other in a row. Of one from which frames wait, or may still come, the
frames that a server has acknowledged are kept too: whatever server comes next, the spool has all
that its frames are decoded with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edge_client.spool.database import Database
from edge_client.spool.room import Reached, SpoolLimits, reached, refer_anew, reference_of
from shared.errors import SpoolError
from shared.proto.featherwire.v1 import ingest_pb2

SHARE = 8
"""A group takes an eighth of the spool's bytes, and of its time, so that there are others to make
room with."""


@dataclass(frozen=True, slots=True)
class Newest:
    """The frame that was put last, to which the next may refer, and its group.

    first: of the group. grows: whether a frame may refer to it. reached: what there is of it, by
    short ids of bundles. group_bytes: of the group's messages. began_s: by the spool's clock.
    """

    sequence: int
    first: int
    grows: bool
    reached: Mapping[bytes, Reached]
    group_bytes: int
    began_s: float

    def is_long(self, limits: SpoolLimits, now_s: float) -> bool:
        """Whether its group has its share of the spool."""
        if SHARE * self.group_bytes > limits.max_bytes:
            return True
        return limits.max_age_s is not None and SHARE * (now_s - self.began_s) > limits.max_age_s

    def now(self, cut: Mapping[int, Mapping[bytes, Reached]]) -> Newest:
        """After frames were made coarser."""
        mine = cut.get(self.sequence)
        return self if mine is None else replace(self, reached=mine)


def placed(
    message: ingest_pb2.Frame,
    newest: Newest | None,
    *,
    grows: bool,
    size: int,
    now_s: float,
) -> Newest:
    """A frame that is being put, in the group to which it belongs.

    Raises ``SpoolError("needs_key_frame")`` where what it refers to is not here any more.
    """
    found, sequence = reached(message), message.sequence
    reference = reference_of(message)
    if reference is None:
        return Newest(sequence, sequence, grows, found, size, now_s)
    if newest is None or reference != newest.sequence or not newest.grows:
        raise needs_key_frame(f"frame {reference}, to which it refers, is not in the spool")
    total = newest.group_bytes + size
    return Newest(sequence, newest.first, grows, found, total, newest.began_s)


def needs_key_frame(why: str) -> SpoolError:
    """A predicted frame cannot be queued, but one that stands alone can."""
    return SpoolError("needs_key_frame", why)


def keep(database: Database, sequence: int, newest: Newest | None) -> None:
    """Before a frame that was delivered is deleted: keep it while its group is of use; let a group
    go that is not. Inside a transaction."""
    rows = database.rows("SELECT first, grows FROM frames WHERE sequence = ?", sequence)
    if not rows:
        return
    ((first, grows),) = rows
    if newest is not None and newest.first == first:
        needed = bool(grows)
    else:
        needed = bool(
            database.rows(
                "SELECT 1 FROM frames WHERE first = ? AND sequence <> ? LIMIT 1", first, sequence
            )
        )
    if needed:
        database.execute(
            "INSERT OR REPLACE INTO kept SELECT sequence, first, message FROM frames "
            "WHERE sequence = ?",
            sequence,
        )
    elif sequence != first:
        database.execute("DELETE FROM kept WHERE first = ?", first)


def release(database: Database, newest: Newest | None) -> None:
    """Let go of groups from which no frame waits, but for the newest. Inside a transaction."""
    database.execute(
        "DELETE FROM kept WHERE first IS NOT ? AND first NOT IN (SELECT first FROM frames)",
        None if newest is None else newest.first,
    )


def shift_kept(database: Database) -> dict[int, int]:
    """Before the queued frames are numbered again from 1: number what is kept of the group of the
    first one from 0 down; the rest is of no more use. Returns new sequences by old ones. Inside a
    transaction."""
    rows = database.rows("SELECT sequence, first FROM frames ORDER BY sequence LIMIT 1")
    ((oldest, first),) = rows or [(0, None)]
    database.execute("DELETE FROM kept WHERE first IS NOT ? OR sequence > ?", first, oldest)
    shift = int(str(oldest)) - 1
    numbers = {
        int(str(sequence)): int(str(sequence)) - shift
        for (sequence,) in database.rows("SELECT sequence FROM kept ORDER BY sequence")
    }
    for sequence, number in numbers.items():
        database.execute(
            "UPDATE kept SET sequence = ?, first = first - ? WHERE sequence = ?",
            number,
            shift,
            sequence,
        )
    return numbers


def number_anew(database: Database) -> int:
    """Number the queued frames from 1, and what is kept of their group; returns how many there are.
    None of them counts as sent. Inside a transaction."""
    rows = database.rows("SELECT sequence, message, first FROM frames ORDER BY sequence")
    numbers = {int(str(sequence)): number for number, (sequence, _, _) in enumerate(rows, 1)}
    numbers |= shift_kept(database)
    for sequence, data, first in rows:
        assert isinstance(sequence, int)
        assert isinstance(data, bytes)
        number = numbers[sequence]
        message = ingest_pb2.Frame.FromString(data)
        message.sequence = number
        refer_anew(message, sequence, numbers)
        database.execute(
            "UPDATE frames SET sequence = ?, message = ?, sent = 0, first = ? WHERE sequence = ?",
            number,
            message.SerializeToString(),
            numbers.get(int(str(first)), number),
            sequence,
        )
    return len(rows)


def chain(database: Database, sequence: int) -> list[ingest_pb2.Frame]:
    """What a queued frame is decoded with: its group from the first frame up to itself, as far as
    it is here."""
    rows = database.rows(
        "SELECT message FROM (SELECT sequence, first, message FROM frames UNION ALL "
        "SELECT sequence, first, message FROM kept) WHERE sequence <= ? AND first = "
        "(SELECT first FROM frames WHERE sequence = ?) ORDER BY sequence",
        sequence,
        sequence,
    )
    return [ingest_pb2.Frame.FromString(data) for (data,) in rows if isinstance(data, bytes)]

"""What a spool gives up: for room, for its age, for damage; counted, and told to who waits."""

from __future__ import annotations

from edge_client.spool.file import SpoolFile
from edge_client.spool.groups import needs_key_frame
from edge_client.spool.room import (
    Dropped,
    Row,
    SpoolLimits,
    SpoolPolicy,
    coarsen,
    drop_old,
    drop_oldest,
    drop_rest,
)
from shared.errors import SpoolError


class Losses:
    """By ``limits``, which may be set at any time. All but ``drop_damaged`` is for inside a
    transaction."""

    def __init__(self, file: SpoolFile, limits: SpoolLimits) -> None:
        self._file = file
        self.limits = limits

    def require_room(self, size: int) -> None:
        """Raise ``SpoolError`` where a message of so many bytes cannot be queued, whatever goes."""
        limits = self.limits
        if limits.policy is SpoolPolicy.NEWEST and self._file.bytes + size > limits.max_bytes:
            raise SpoolError("spool_full", f"the spool has its {limits.max_bytes} bytes")
        if limits.policy is SpoolPolicy.OLDEST and size > limits.max_bytes:
            raise _too_large(size, limits)

    def make_room(self, sequence: int, size: int) -> None:
        """Make others coarser, or drop them, for the frame that was just put.

        Raises ``SpoolError``: frame_too_large, needs_key_frame.
        """
        file = self._file
        excess = file.bytes - self.limits.max_bytes
        if excess > 0 and self.limits.policy is SpoolPolicy.COARSEN:
            cuts = coarsen(file.database, excess)
            file.count("coarsened", cuts.count)
            file.bytes -= cuts.freed
            excess -= cuts.freed
            assert file.newest is not None, "it has just been put"
            file.newest = file.newest.now(cuts.frames)
        if excess > 0:
            group = sequence if file.newest is None else file.newest.first
            dropped, freed = drop_oldest(file.database, excess, group)
            file.bytes -= freed
            if freed < excess and group != sequence:
                raise needs_key_frame("nothing is left to make room with but its own group")
            if freed < excess:
                raise _too_large(size, self.limits)
            self._count(dropped, "full", "the spool was full")

    def drop_old(self) -> None:
        """Drop what is older than the limit."""
        max_age_s = self.limits.max_age_s
        if max_age_s is None:
            return
        rows = drop_old(self._file.database, self._file.clock.now() - max_age_s)
        if rows:
            self._file.bytes = self._file.summed_bytes()
            self._count(rows, "age", f"it waited {max_age_s:g} s")

    def drop_damaged(self, sequence: int) -> None:
        """Drop a frame that cannot be read, and those that refer to it."""

        def write() -> None:
            ((first,),) = self._file.rows("SELECT first FROM frames WHERE sequence = ?", sequence)
            rows, freed = drop_rest(self._file.database, first, sequence)
            self._file.bytes -= freed
            self._count(rows[:1], "damaged", "its bytes were damaged")
            self._count(rows[1:], "damaged", "a frame that it refers to was damaged")

        self._file.write(write, durable=False)

    def _count(self, rows: list[Row], reason: str, why: str) -> None:
        file = self._file
        file.counts[f"dropped_{reason}"] += len(rows)
        newest = file.newest
        if newest is not None and any(sequence == newest.sequence for sequence, _ in rows):
            file.newest = None
        for sequence, source in rows:
            error = SpoolError(f"dropped_{reason}", f"frame {sequence} was dropped: {why}")
            file.dropped.append(Dropped(sequence, source, error))


def _too_large(size: int, limits: SpoolLimits) -> SpoolError:
    return SpoolError(
        "frame_too_large", f"a frame of {size} bytes does not fit into {limits.max_bytes}"
    )

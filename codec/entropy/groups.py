"""Bits eight at a time, and near-certain ones in runs: how version 4 codes a pass of bits.

A step of the range coder takes as long whether it is worth a bit or a byte, and in Python it is
what takes long. So bits of about the same probability are brought together:

1. A bit is coded as whether it is the less likely one, which has the probability q, at most a half.
2. The bits of a pass are sorted by q, greatest first, those of the same q by place.
3. The first n mod 8 of them are coded bit by bit, and so is, after them, each group of eight whose
   greatest q is more than 5/4 of its least, and 2**-8.
4. Any other eight are a byte, the first its most significant bit, coded with a table: that of eight
   independent bits whose q is the mean of the group's greatest and least, rounded to one of a list.
5. Bytes with a mean below 2**-8, which come last, are nearly all zero. They are cut into runs whose
   chances of another byte add up to about an eighth. A step says either that the rest of the run is
   zero, or how many zeros come before the next other byte, and which that is.

Both ends know all q beforehand, so that neither order nor groups are sent. If the probabilities
were exact, means of them would cost up to a thousandth of the bits. They are estimates, and photos
take a little less with the means.

With m_i the chance that byte i is not zero, and a to e the rest of the run, the event "first at i"
has a share of m_i, and "none" 1 less all of them. The exact shares are less by the chance that one
came before: with sums below 5/32 the difference costs less than 0.001 bits a run.

All of it is integers, in int64: q over 2**16, shares over 2**20, and sums of shares of 2**15 at
most, which 2**48 bytes would not overflow. What orders bits is a stable sort of 16-bit integers.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from codec.entropy.range_coder import RangeDecoder, RangeEncoder
from codec.entropy.tables import PROBABILITY_BITS, PROBABILITY_ONE, Bits, Probabilities

_PRECISION: Final = 20
_ONE: Final = 1 << _PRECISION
_HALF: Final = PROBABILITY_ONE // 2
_SPLIT_SHIFT: Final = _PRECISION - PROBABILITY_BITS
_GROUP: Final = 8
_TOLERATED: Final = 4 * (PROBABILITY_ONE >> 8)
"""What greatest q of a group may have more than 5/4 of the least, four times."""
_NEAR_CERTAIN: Final = PROBABILITY_ONE >> 8
_RUN_SHIFT: Final = _PRECISION - 3

Ranks = npt.NDArray[np.uint16]
Places = npt.NDArray[np.intp]
Numbers = npt.NDArray[np.int64]


def ranks_of(probabilities: Probabilities) -> Ranks:
    """2**15 - q of bits with these P(1) * 2**16 (from 1 up), which are sorted by it."""
    return _ranks().take(probabilities)


def encode_bits(coder: RangeEncoder, less_likely: Bits, ranks: Ranks) -> None:
    """Append a pass of bits.

    less_likely: uint8 [n], 1 where a bit is what it is with probability q. ranks: uint16 [n], of
    each 2**15 - q, from 0 to 2**15 - 1.
    """
    plan = _Plan(ranks)
    if len(plan.single):
        chosen = less_likely[plan.single]
        starts = np.where(chosen, plan.splits, 0)
        shares = np.where(chosen, _ONE - plan.splits, plan.splits)
        coder.encode(starts.tolist(), shares.tolist(), repeat(_ONE))
    if len(plan.tables):
        found = np.packbits(less_likely[plan.grouped])
        tables, cut = byte_tables(), plan.certain
        steps = (plan.tables[:cut].astype(np.intp) << 8) + found[:cut]
        starts, shares = tables.starts.take(steps), tables.shares.take(steps)
        coder.encode(starts.tolist(), shares.tolist(), repeat(_ONE))
        if cut < len(found):
            _encode_runs(coder, found[cut:], plan.tables[cut:])


def decode_bits(coder: RangeDecoder, ranks: Ranks) -> Bits:
    """What :func:`encode_bits` appended: uint8 [n]. Raises BitstreamError ``bad_payload``."""
    plan = _Plan(ranks)
    less_likely = np.empty(len(ranks), np.uint8)
    if len(plan.single):
        less_likely[plan.single] = coder.bits(plan.splits.tolist(), _ONE)
    if len(plan.tables):
        lists, cut = byte_tables().lists, plan.certain
        found = np.zeros(len(plan.tables), np.uint8)
        numbers = plan.tables[:cut].tolist()
        found[:cut] = coder.symbols([lists[number] for number in numbers])
        if cut < len(found):
            for place, byte in _decode_runs(coder, plan.tables[cut:]):
                found[cut + place] = byte
        less_likely[plan.grouped] = np.unpackbits(found)
    return less_likely


class ByteTables(NamedTuple):
    """By number, as q falls; byte 0 comes first and has the greatest share.

    starts, shares: int32 [tables, 256]. lists: starts of each, and 2**20. others: int64 [tables],
    the share of all bytes but 0.
    """

    starts: npt.NDArray[np.int32]
    shares: npt.NDArray[np.int32]
    lists: list[list[int]]
    others: Numbers


@cache
def byte_tables() -> ByteTables:
    """Of eight independent bits: every byte has one count and a share of the rest by its
    probability, rounded down; byte 0 gets what is left."""
    ones = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, np.intp)
    rest, power = _ONE - 256, PROBABILITY_ONE**_GROUP
    shares = np.array(
        [
            [rest * q**k * (PROBABILITY_ONE - q) ** (_GROUP - k) // power + 1 for k in range(9)]
            for q in _chances()
        ],
        np.int64,
    ).take(ones, axis=1)
    shares[:, 0] += _ONE - shares.sum(1)
    ends = shares.cumsum(1)
    lists = np.concatenate([np.zeros((len(ends), 1), np.int64), ends], axis=1).tolist()
    starts = (ends - shares).astype(np.int32)
    return ByteTables(starts, shares.astype(np.int32), lists, _ONE - shares[:, 0])


@cache
def _chances() -> list[int]:
    """The q of the tables over 2**16: from a half on, falling by a tenth of their log odds."""
    found = [_HALF]
    while found[-1] > 1:
        q = found[-1]
        found.append(q - max(1, q * (PROBABILITY_ONE - q) // (10 * PROBABILITY_ONE)))
    return found


@cache
def _nearest() -> npt.NDArray[np.uint8]:
    """The table of every mean q from 0 to 2**15: uint8 [2**15 + 1]."""
    falling = np.array(_chances())
    edges = (falling[1:] + falling[:-1]) // 2
    return (len(edges) - np.searchsorted(edges[::-1], np.arange(_HALF + 1))).astype(np.uint8)


@cache
def _ranks() -> Ranks:
    """Of every probability from 0 to 2**16 - 1."""
    chances = np.arange(PROBABILITY_ONE)
    return (_HALF - np.minimum(chances, PROBABILITY_ONE - chances)).astype(np.uint16)


class _Plan:
    """How the bits of a pass are coded, which their ranks say.

    single: places that are coded bit by bit, with
    splits. grouped: places, eight of every group together; tables: uint8, the groups'; certain: the
    first of them that is coded in runs.
    """

    def __init__(self, ranks: Ranks) -> None:
        order = ranks.argsort(kind="stable")
        chances = (_HALF - ranks.take(order)).astype(np.int64)
        alone = len(order) % _GROUP
        self.single, self.grouped = order[:alone], order[alone:]
        splits, first, last = chances[:alone], chances[alone::_GROUP], chances[alone + 7 :: _GROUP]
        means = first + last >> 1
        mixed = 4 * first > 5 * last + _TOLERATED
        if mixed.any():
            groups = self.grouped.reshape(-1, _GROUP)
            self.single = np.append(self.single, groups[mixed])
            splits = np.append(splits, chances[alone:].reshape(-1, _GROUP)[mixed])
            self.grouped, means = groups[~mixed].reshape(-1), means[~mixed]
        self.splits: Numbers = PROBABILITY_ONE - splits << _SPLIT_SHIFT
        self.tables = _nearest().take(means)
        self.certain = len(means) - int(means[::-1].searchsorted(_NEAR_CERTAIN))


def _encode_runs(coder: RangeEncoder, found: Bits, tables: npt.NDArray[np.uint8]) -> None:
    before, ends = _runs(tables)
    others = found.nonzero()[0]
    closed = ends[found[ends - 1] == 0]
    # In the message's order: the byte at i comes before a run's end after i.
    ends_at = np.concatenate([2 * others + 1, 2 * closed])
    order = ends_at.argsort()
    ends_at = ends_at[order]
    begins = np.zeros_like(ends_at)
    begins[1:] = ends_at[:-1] + 1 >> 1
    passed = before.take(ends_at >> 1) - before.take(begins)
    steps, numbers = byte_tables(), tables[others].astype(np.intp) << 8
    starts, shares = np.zeros((2, len(order)), np.int64)
    # Of the table's counts without byte 0's.
    starts[: len(others)] = steps.starts.take(numbers + found[others]) - steps.shares.take(numbers)
    shares[: len(others)] = steps.shares.take(numbers + found[others])
    starts, shares = starts[order] + passed, shares[order]
    coder.encode(starts.tolist(), np.where(shares, shares, _ONE - passed).tolist(), repeat(_ONE))


def _decode_runs(coder: RangeDecoder, tables: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Places and bytes that are not zero."""
    before, ends = _runs(tables)
    sums, numbers, lists = memoryview(before.data), tables.tobytes(), byte_tables().lists
    found: list[tuple[int, int]] = []
    here = 0
    for end in ends.tolist():
        last = sums[end]
        while here < end:
            passed = sums[here]
            slot = coder.slot(_ONE)
            if slot >= last - passed:
                coder.take(last - passed, _ONE - (last - passed), _ONE)
                here = end
                break
            here = bisect_right(sums, slot + passed, here, end)
            skipped, table = sums[here - 1] - passed, lists[numbers[here - 1]]
            zero = table[1]
            behind = bisect_right(table, slot - skipped + zero)
            start = table[behind - 1]
            coder.take(skipped + start - zero, table[behind] - start, _ONE)
            found.append((here - 1, behind - 1))
    return found


def _runs(tables: npt.NDArray[np.uint8]) -> tuple[Numbers, Places]:
    """Sums of the shares of other bytes before each place (int64 [n + 1]), and the runs' ends."""
    before = np.zeros(len(tables) + 1, np.int64)
    byte_tables().others.take(tables).cumsum(out=before[1:])
    numbers = before[:-1] >> _RUN_SHIFT
    ends = np.append((numbers[1:] != numbers[:-1]).nonzero()[0] + 1, len(tables))
    return before, ends

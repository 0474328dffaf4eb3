"""A range coder in integers: intervals to bytes and back (Martin 1979; Schindler 1998).

A message is a number from 0 to below 1, written in bytes, most significant first; zeros follow for
ever. Coding narrows an interval of such numbers, symbol by symbol, to the share that the symbol's
probability says. What remains is ``[lower, lower + size)``, in units of the last place of a window
of 56 bits. As soon as the size falls below 2**32 the window moves on by a word of 24 bits, so that
sizes stay from 2**32 to 2**56 (in version 3 the window has 64 bits, and words have 32). Words that
it has left are settled but for one carry, which is added to them when it comes: a word of ones
turns to zero and passes it on.

A step has a start and a share of a total: the interval's size is divided by the total, rounded
down, and multiplied by both. As totals are 2**24 at most and sizes 2**32 at least, the quotient is
2**8 at least. What rounding leaves over at the upper end belongs to no symbol: a decoder that finds
its number there refuses the message.

A message ends with as many bytes of the window as make one in their last place no more than the
interval's size, and with the least number of so many bytes in the interval. So its length follows
from the shares of its symbols: less than a byte more than their bits. As this is a rule, there is
one message of every sequence of symbols, and a decoder knows, when it has read them all, whether
its payload is that message: it knows where in the interval its number lies, so where the interval
begins, and what an encoder would have written (:meth:`RangeDecoder.finish`). Nothing is encoded
again. (Version 3 ends with the shortest number in the interval, which is a fifth of a byte less,
but what is left of a message with its last byte gone is often another message then.)

All numbers are Python's integers, which do not overflow; in the window they have 57 bits (65 in
version 3), so that every step costs the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final

import numpy as np

from shared.errors import BitstreamError

_LEAST_BITS: Final = 32
"""The interval's size is at least 2**32 whenever a symbol is coded."""
_LEAST: Final = 1 << _LEAST_BITS


@dataclass(frozen=True, slots=True)
class Window:
    """What versions differ in: words of ``word_bits``, and a window of 32 bits more.

    first_size: of the interval of the empty message. shortest: whether messages end with the
    shortest number in the interval.
    """

    word_bits: int
    first_size: int
    shortest: bool

    @property
    def bits(self) -> int:
        """Bits of the window, in which the interval's lower end is known."""
        return self.word_bits + _LEAST_BITS

    def ending(self, lower: int, size: int) -> tuple[int, bytes]:
        """The carry into the settled words (0 or 1), and the bytes after them.

        lower: 0 to below 2**bits. size: the interval's.
        """
        if self.shortest:
            return self._shortest(lower, size)
        kept = (self.bits + 8 - size.bit_length()) // 8
        return self._rounded_up(lower, kept)

    def _shortest(self, lower: int, size: int) -> tuple[int, bytes]:
        """The shortest number that begins with the settled words; with a carry if that is the
        only way for a number of one word."""
        whole = 1 << self.bits
        if lower + _LEAST > whole:
            return 1, b""
        upper = min(lower + size, whole)
        for kept in range(self.bits // 8 + 1):
            step = whole >> 8 * kept
            if -(-lower // step) * step < upper:
                break
        return self._rounded_up(lower, kept)

    def _rounded_up(self, lower: int, kept: int) -> tuple[int, bytes]:
        step = 1 << self.bits - 8 * kept
        number = -(-lower // step) * step
        window = (number % (1 << self.bits)).to_bytes(self.bits // 8, "big")
        return number >> self.bits, window[:kept]


VERSION_3: Final = Window(word_bits=32, first_size=2**64 - 1, shortest=True)
VERSION_4: Final = Window(word_bits=24, first_size=2**56, shortest=False)


class RangeEncoder:
    """Narrows the interval; :meth:`payload` is the message so far."""

    def __init__(self, window: Window) -> None:
        """window: of the version of the message."""
        self._window = window
        self._lower, self._size = 0, window.first_size
        self._words: list[int] = []

    def encode(self, starts: Iterable[int], shares: Iterable[int], totals: Iterable[int]) -> None:
        """Append steps: totals (1 to 2**24), shares (1 to the total) and starts (0 to the total
        less the share)."""
        lower, size = self._lower, self._size
        word_bits = self._window.word_bits
        most, low_mask, word_mask = 1 << self._window.bits, _LEAST - 1, (1 << word_bits) - 1
        words = self._words
        for start, share, total in zip(starts, shares, totals, strict=False):
            scale = size // total
            lower += scale * start
            size = scale * share
            if size < _LEAST:
                if lower >= most:
                    _carry(words, word_mask)
                words.append(lower >> _LEAST_BITS & word_mask)
                lower = (lower & low_mask) << word_bits
                size <<= word_bits
        if lower >= most:
            _carry(words, word_mask)
            lower -= most
        self._lower, self._size = lower, size

    def payload(self) -> bytes:
        """The message so far; zeros may follow it for ever."""
        window, words = self._window, self._words
        carry, ending = window.ending(self._lower, self._size)
        if carry:
            words = words.copy()
            _carry(words, (1 << window.word_bits) - 1)
        unused = 4 - window.word_bits // 8
        settled = np.array(words, ">u4").view(np.uint8).reshape(-1, 4)[:, unused:]
        return settled.tobytes() + ending


class RangeDecoder:
    """Finds in which symbol's share of the interval the message lies, step by step.

    Any bytes can be read, and zeros follow them: what is asked for decides how many steps there
    are, not the message. Each method raises BitstreamError ``bad_payload`` where no symbol is.
    """

    def __init__(self, window: Window, payload: bytes) -> None:
        """payload: any bytes."""
        self._window, self._payload = window, payload
        word_bytes, window_bytes = window.word_bits // 8, window.bits // 8
        rest = payload[window_bytes:]
        rows = np.zeros((-(-len(rest) // word_bytes), 4), np.uint8)
        padded = np.frombuffer(rest.ljust(len(rows) * word_bytes, b"\0"), np.uint8)
        rows[:, 4 - word_bytes :] = padded.reshape(-1, word_bytes)
        words = rows.view(">u4").reshape(-1).astype(np.uint32)
        # Read one by one: a list of a long payload's words would take ten times its bytes.
        self._next: Callable[[], int] = chain(memoryview(words.data), repeat(0)).__next__
        self._read = 0
        # How far the number lies above the interval's lower end.
        self._above = int.from_bytes(payload[:window_bytes].ljust(window_bytes, b"\0"), "big")
        self._size = window.first_size

    def symbols(self, tables: Iterable[Sequence[int]]) -> list[int]:
        """The next symbols, each with a table of its own.

        tables: of each, the symbols' starts, ascending from 0, and the total after them.
        """
        above, size, read, following = self._above, self._size, self._read, self._next
        word_bits = self._window.word_bits
        found: list[int] = []
        append, search = found.append, bisect_right
        try:
            for table in tables:
                scale = size // table[-1]
                symbol = search(table, above // scale) - 1
                start = table[symbol]
                size = (table[symbol + 1] - start) * scale
                above -= start * scale
                append(symbol)
                if size < _LEAST:
                    size <<= word_bits
                    above = above << word_bits | following()
                    read += 1
        except IndexError:
            raise _no_symbol() from None
        self._above, self._size, self._read = above, size, read
        return found

    def bits(self, splits: Iterable[int], total: int) -> list[int]:
        """The next bits. splits: where the share of a 1 begins, which goes to ``total``."""
        above, size, read, following = self._above, self._size, self._read, self._next
        word_bits = self._window.word_bits
        found: list[int] = []
        append = found.append
        for split in splits:
            scale = size // total
            bound = scale * split
            if above < bound:
                size = bound
                append(0)
            else:
                above -= bound
                size = scale * (total - split)
                if above >= size:
                    raise _no_symbol()
                append(1)
            if size < _LEAST:
                size <<= word_bits
                above = above << word_bits | following()
                read += 1
        self._above, self._size, self._read = above, size, read
        return found

    def slot(self, total: int) -> int:
        """Where in ``total`` the share of the next step lies; :meth:`take` must follow."""
        slot = self._above // (self._size // total)
        if slot >= total:
            raise _no_symbol()
        return slot

    def take(self, start: int, share: int, total: int) -> None:
        """Go on with the share in which :meth:`slot` lies."""
        scale = self._size // total
        self._above -= scale * start
        self._size = scale * share
        if self._size < _LEAST:
            self._size <<= self._window.word_bits
            self._above = self._above << self._window.word_bits | self._next()
            self._read += 1

    def finish(self) -> None:
        """Raise BitstreamError ``bad_payload`` unless an encoder writes what was read."""
        window, payload = self._window, self._payload
        window_bytes = window.bits // 8
        settled = self._read * (window.word_bits // 8)
        here = payload[settled : settled + window_bytes].ljust(window_bytes, b"\0")
        lower = int.from_bytes(here, "big") - self._above
        # The interval may begin before the word that the number begins with: an encoder's settled
        # words are one less then, and it gets to ours by a carry, or not at all.
        carry, ending = window.ending(lower % (1 << window.bits), self._size)
        expected = payload[:settled].ljust(settled, b"\0") + ending
        if carry != (lower < 0) or payload != expected:
            raise BitstreamError("bad_payload", "no encoder writes such a layer")


def _carry(words: list[int], mask: int) -> None:
    """Add one to the settled words."""
    place = len(words) - 1
    while words[place] == mask:
        words[place] = 0
        place -= 1
    words[place] += 1


def _no_symbol() -> BitstreamError:
    return BitstreamError("bad_payload", "the range coder rejects it: no symbol is there")

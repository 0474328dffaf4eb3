"""A least-recently-used store with a budget in bytes, and a bound on the entries of each owner."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")


class OwnedCache(Generic[Value]):
    """Values of several owners (sessions) under one budget.

    The owner's oldest entry goes when it has more than ``max_entries_per_owner``; the oldest of all
    go when the sum of bytes exceeds ``max_bytes``. A value larger than the budget is not kept.
    """

    def __init__(self, *, max_bytes: int, max_entries_per_owner: int) -> None:
        self._max_bytes = max_bytes
        self._max_entries = max_entries_per_owner
        self._bytes = 0
        self._order: OrderedDict[tuple[Hashable, int], tuple[Value, int]] = OrderedDict()
        self._owned: dict[Hashable, OrderedDict[int, None]] = {}

    def put(self, owner: Hashable, number: int, value: Value, value_bytes: int) -> None:
        """Keep ``value``, or replace the one of this number."""
        self.drop(owner, number)
        if value_bytes > self._max_bytes or self._max_entries == 0:
            return
        self._order[owner, number] = (value, value_bytes)
        owned = self._owned.setdefault(owner, OrderedDict())
        owned[number] = None
        self._bytes += value_bytes
        if len(owned) > self._max_entries:
            self.drop(owner, next(iter(owned)))
        while self._bytes > self._max_bytes:
            self.drop(*next(iter(self._order)))

    def get(self, owner: Hashable, number: int) -> Value | None:
        """The value, now the most recently used; None when it was dropped."""
        entry = self._order.get((owner, number))
        if entry is None:
            return None
        self._order.move_to_end((owner, number))
        return entry[0]

    def values(self, owner: Hashable) -> Iterator[tuple[int, Value]]:
        """What is kept of ``owner``, in the order in which it was put."""
        for number in list(self._owned.get(owner, ())):
            yield number, self._order[owner, number][0]

    def drop(self, owner: Hashable, number: int) -> None:
        """Forget one value, if it is there."""
        entry = self._order.pop((owner, number), None)
        if entry is None:
            return
        self._bytes -= entry[1]
        owned = self._owned[owner]
        del owned[number]
        if not owned:
            del self._owned[owner]

    def drop_owner(self, owner: Hashable) -> None:
        """Forget everything of ``owner``."""
        for number in list(self._owned.get(owner, ())):
            self.drop(owner, number)

    @property
    def total_bytes(self) -> int:
        """Sum of what is kept."""
        return self._bytes

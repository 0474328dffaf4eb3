"""An event loop whose clock jumps to what is due next: hours of waiting in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Nothing but timers may wake it: no sockets, no threads."""

    def __init__(self) -> None:
        self._virtual_s = 0.0
        loop = self

        class Selector(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> Any:
                if timeout is None:
                    raise RuntimeError("everything waits, and nothing is due")
                loop._virtual_s += max(0.0, timeout)
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self._virtual_s

    def jump(self, seconds: float) -> None:
        """The process stood still for so long."""
        self._virtual_s += seconds


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on such a loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)

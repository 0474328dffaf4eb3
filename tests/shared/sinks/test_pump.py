"""A slow or dead sink slows nobody down: the oldest that it does not take is dropped, or, where
nothing may be lost, waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from shared.backoff import Backoff
from shared.errors import SinkError
from shared.sinks import Pump, Pumps, Report
from tests.support.reports import report

FAST = {"first_s": 0.001, "limit_s": 0.005}


class Shelf:
    """A sink whose moods a test sets."""

    name = "shelf"

    def __init__(self, at_once: int = 8) -> None:
        self.at_once = at_once
        self.taken: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.error: SinkError | None = None
        self.closed = False

    def deliver(self, reports: Sequence[Report]) -> None:
        self.open.wait()
        if self.error is not None:
            raise self.error
        self.taken += [one.sequence for one in reports]

    def close(self) -> None:
        self.closed = True


def until(condition: object, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.002)
    return bool(condition())  # type: ignore[operator]


def test_everything_is_delivered_in_order() -> None:
    shelf = Shelf()
    pump = Pump(shelf)
    for number in range(100):
        pump.put(report(number))
    pump.close()
    assert shelf.taken == list(range(100))
    assert shelf.closed
    assert pump.counts == {"delivered": 100, "dropped_end": 0}
    assert pump.delivered_cursor == 99


def test_a_sink_that_hangs_holds_nobody_up_and_the_newest_are_kept() -> None:
    shelf = Shelf(at_once=1)
    shelf.open.clear()
    pump = Pump(shelf, capacity=10)
    for number in range(100):
        assert pump.put(report(number))  # returns, though nothing is taken
    assert pump.waiting == 10
    assert pump.counts["dropped_full"] == 90
    shelf.open.set()
    pump.close()
    # The one that it hung on was on its way when its place was taken.
    assert shelf.taken[-10:] == list(range(90, 100))
    assert len(shelf.taken) <= 11


def test_with_wait_nothing_is_dropped() -> None:
    shelf = Shelf(at_once=2)
    shelf.open.clear()
    pump = Pump(shelf, capacity=5, wait=True)
    taken = [pump.put(report(number), 0.05) for number in range(6)]
    assert taken == [True] * 5 + [False]
    shelf.open.set()
    for number in range(5, 50):
        assert pump.put(report(number), 20)
    pump.close()
    assert shelf.taken == list(range(50))


def test_a_sink_that_is_away_is_tried_again_until_it_takes() -> None:
    shelf = Shelf()
    shelf.error = SinkError("sink_away", "not now")
    pump = Pump(shelf, backoff=Backoff(**FAST))
    pump.put(report(1))
    assert until(lambda: pump.counts["retries"] >= 3)
    assert pump.error is shelf.error
    shelf.error = None
    pump.close()
    assert shelf.taken == [1]
    assert pump.error is None


def test_what_is_refused_is_counted_and_the_next_goes_on() -> None:
    shelf = Shelf(at_once=1)
    shelf.error = SinkError("refused", "never")
    pump = Pump(shelf)
    pump.put(report(1))
    assert until(lambda: pump.counts["dropped_refused"] == 1)
    shelf.error = None
    pump.put(report(2))
    pump.close()
    assert shelf.taken == [2]


@pytest.mark.parametrize("error", [SinkError("not_taken", "not this one"), ZeroDivisionError()])
def test_one_that_is_never_taken_is_given_up_and_the_next_go_on(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Choosy(Shelf):
        def deliver(self, reports: Sequence[Report]) -> None:
            if reports[0].sequence == 2:
                raise error
            super().deliver(reports)

    choosy = Choosy(at_once=1)
    pump = Pump(choosy, wait=True, give_up_s=0.05, backoff=Backoff(**FAST))
    for number in (1, 2, 3):
        pump.put(report(number))
    assert until(lambda: choosy.taken == [1, 3])
    pump.close()
    assert pump.counts["dropped_given_up"] == 1
    assert pump.counts["retries"] > 1
    assert pump.delivered_cursor == 3
    assert "frame 2 of" in caplog.text


def test_a_sink_that_is_away_costs_no_report() -> None:
    shelf = Shelf(at_once=1)
    shelf.error = SinkError("sink_away", "not now")
    pump = Pump(shelf, give_up_s=0, backoff=Backoff(**FAST))
    pump.put(report(1))
    assert until(lambda: pump.counts["retries"] >= 5)
    shelf.error = None
    pump.close()
    assert shelf.taken == [1]


def test_an_unexpected_error_is_no_end() -> None:
    class Odd(Shelf):
        def deliver(self, reports: Sequence[Report]) -> None:
            if not self.taken and self.error is None:
                self.error = SinkError("x", "x")
                raise ZeroDivisionError
            self.taken += [one.sequence for one in reports]

    odd = Odd()
    pump = Pump(odd, backoff=Backoff(**FAST))
    pump.put(report(1))
    pump.close()
    assert odd.taken == [1]


def test_the_end_waits_only_so_long() -> None:
    shelf = Shelf()
    shelf.error = SinkError("sink_away", "away")
    pump = Pump(shelf)
    pump.put(report(1))
    began = time.monotonic()
    pump.close(0.2)
    assert time.monotonic() - began < 10
    assert pump.counts["dropped_end"] == 1


def test_the_cursor_is_that_of_the_slowest_sink() -> None:
    quick, slow = Shelf(), Shelf(at_once=1)
    slow.open.clear()
    pumps = Pumps([Pump(quick), Pump(slow)])
    for number in (1, 2, 3):
        pumps.put(report(number))
    assert until(lambda: quick.taken == [1, 2, 3])
    assert pumps.delivered_cursor is None
    slow.open.set()
    assert until(lambda: pumps.delivered_cursor == 3)
    pumps.close()


@pytest.mark.parametrize("error", [SinkError("refused", "never"), ZeroDivisionError("a defect")])
def test_of_several_only_the_one_at_fault_is_lost(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing that is not taken was to be given up, a defect of ours is, after a while."""
    monkeypatch.setattr("shared.sinks.pump.DEFECT_PATIENCE_S", 0.02)

    class Choosy(Shelf):
        def deliver(self, reports: Sequence[Report]) -> None:
            self.open.wait()
            if any(one.sequence == 5 for one in reports):
                raise error
            super().deliver(reports)

    choosy = Choosy(at_once=8)
    choosy.open.clear()
    pump = Pump(choosy, backoff=Backoff(**FAST))
    for number in range(1, 21):
        pump.put(report(number))
    choosy.open.set()
    pump.close()
    assert sorted(set(choosy.taken)) == [n for n in range(1, 21) if n != 5]
    assert pump.counts["delivered"] == 19
    assert pump.counts["dropped_refused"] + pump.counts["dropped_given_up"] == 1


@pytest.mark.parametrize("wait", [False, True])
def test_a_sinks_own_patience_holds_unless_everything_is_waited_for(wait: bool) -> None:
    shelf = Shelf(at_once=1)
    shelf.error = SinkError("not_taken", "over the quota", patience_s=0.05)
    pump = Pump(shelf, wait=wait, backoff=Backoff(**FAST))
    pump.put(report(1))
    given_up = until(lambda: pump.counts["dropped_given_up"] == 1, 1)
    assert given_up is not wait
    shelf.error = None
    pump.close()
    assert shelf.taken == ([1] if wait else [])


def test_what_is_lost_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf(at_once=1)
    pump = Pump(shelf)
    for number in range(1, 7):
        shelf.error = SinkError("refused", "too large") if number % 2 else None
        pump.put(report(number))
        assert until(lambda: pump.waiting == 0)
    pump.close()
    assert pump.counts["dropped_refused"] == 3
    assert caplog.text.count("is given up: too large") == 1


def test_a_pump_is_closed_once_and_sinks_of_one_name_are_counted_apart() -> None:
    class Once(Shelf):
        def close(self) -> None:
            assert not self.closed
            super().close()

    pumps = Pumps([Pump(Once()), Pump(Once())])
    pumps.put(report(1))
    pumps.close()
    pumps.close()
    assert [one["delivered"] for one in pumps.counts().values()] == [1, 1]


def test_pumps_end_together_and_not_one_after_the_other() -> None:
    took_s = []
    for count in (1, 8):
        shelves = [Shelf() for _ in range(count)]
        for shelf in shelves:
            shelf.open.clear()
        pumps = Pumps([Pump(shelf) for shelf in shelves])
        pumps.put(report(1))
        began = time.monotonic()
        pumps.close(0.1)
        took_s.append(time.monotonic() - began)
        assert [one["dropped_end"] for one in pumps.counts().values()] == [1] * count
        for shelf in shelves:
            shelf.open.set()
    assert took_s[1] < 4 * took_s[0]


def test_a_sink_that_fails_at_its_end_keeps_no_other_from_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Shelf):
        def close(self) -> None:
            raise TypeError("a defect")

    broken, good = Pump(Broken()), Pump(Shelf())
    Pumps([broken, good]).close()
    assert broken.error is not None
    assert broken.error.reason == "internal_error"
    assert "a defect" in caplog.text
    assert isinstance(good.sink, Shelf)
    assert good.sink.closed

"""Which pictures are worth sending."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.sources import MotionGate, RateGate
from edge_client.sources.gates import moved_share

Pixels = NDArray[np.uint8]


def kept(times: list[float], limit: float | None) -> list[float]:
    gate = RateGate(lambda: limit)
    return [at for at in times if gate.passes(at)]


@pytest.mark.parametrize(
    ("source_fps", "limit", "expected"),
    [(30, 10, 10), (30, 7, 7), (25, 25, 25), (25, 100, 25), (29.97, 5, 5), (30, 0.5, 0.5)],
)
def test_so_many_a_second_are_taken(source_fps: float, limit: float, expected: float) -> None:
    seconds = 20
    rng = np.random.default_rng(1)
    count = int(seconds * source_fps)
    times = [1e9 + (n + rng.uniform(-0.1, 0.1)) / source_fps for n in range(count)]
    rate = len(kept(times, limit)) / seconds
    assert rate == pytest.approx(expected, rel=0.06)


def test_without_a_limit_all_are_taken() -> None:
    assert len(kept([n / 100 for n in range(50)], None)) == 50


def test_a_clock_that_jumps_back_does_not_stop_it() -> None:
    times = [1000 + n for n in range(5)] + [10 + n for n in range(5)]
    assert kept([float(at) for at in times], 1) == times


def test_a_limit_that_changes_counts_at_once() -> None:
    limit = 10.0
    gate = RateGate(lambda: limit)
    before = sum(gate.passes(n / 10) for n in range(100))
    limit = 1.0
    after = sum(gate.passes(10 + n / 10) for n in range(100))
    assert before == 100
    assert after == pytest.approx(10, abs=1)


def test_a_pause_is_so_long_that_the_rate_holds() -> None:
    now = 0.0

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            now += timeout or 0.0
            return False

    gate = RateGate(lambda: 4.0)
    for _ in range(41):
        gate.pause(Stop(), lambda: now)
    assert now == pytest.approx(10.0)


# -- motion ----------------------------------------------------------------------------------------


def scene(seed: int = 3) -> Pixels:
    """480x640x3: something like a yard."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 220, (12, 16, 3)).astype(np.float32)
    return np.kron(coarse, np.ones((40, 40, 1), np.float32)).astype(np.uint8)


def shot(base: Pixels, rng: np.random.Generator, noise: float = 6.0, light: float = 0.0) -> Pixels:
    """The scene through a sensor: with noise (grey levels), and lighter by so much."""
    pixels = base.astype(np.float32) + rng.normal(0, noise, base.shape) + light
    return np.clip(pixels, 0, 255).astype(np.uint8)


def walker(pixels: Pixels, x: int, height: int = 60) -> Pixels:
    """Somebody in dark clothes, a third as wide as high."""
    with_walker = pixels.copy()
    with_walker[200 : 200 + height, x : x + height // 3] = 12
    return with_walker


def moved(before: Pixels, now: Pixels) -> float:
    gate = MotionGate(0)
    return moved_share(gate._cells(before), gate._cells(now), levels=60)


def passes(gate: MotionGate, pictures: list[Pixels], step_s: float = 1.0) -> list[bool]:
    return [gate.passes(one, 1000 + n * step_s) for n, one in enumerate(pictures)]


def test_noise_and_light_do_not_move() -> None:
    rng = np.random.default_rng(0)
    pictures = [shot(scene(), rng, light=n % 20) for n in range(50)]
    assert passes(MotionGate(0.002), pictures) == [True] + [False] * 49


def test_somebody_far_away_moves() -> None:
    rng = np.random.default_rng(0)
    empty = [shot(scene(), rng) for _ in range(5)]
    walk = [walker(shot(scene(), rng), x) for x in range(100, 500, 40)]
    found = passes(MotionGate(0.002), [*empty, *walk, *empty])
    assert found[:5] == [True] + [False] * 4
    assert found[5:15] == [True] * 10
    assert found[15:] == [True] + [False] * 4  # gone: that is news, too


def test_what_creeps_is_seen_for_it_is_compared_with_what_was_sent() -> None:
    pictures = [walker(scene(), 100 + n) for n in range(60)]
    steps = [moved(one, two) for one, two in pairwise(pictures)]
    gate = MotionGate(0.002, levels=60)
    assert max(steps) <= 0.002  # none of them alone
    assert 5 <= sum(passes(gate, pictures)) < 30


def test_a_picture_goes_now_and_then_all_the_same() -> None:
    pictures = [scene()] * 31
    assert sum(passes(MotionGate(0.002, longest_s=10), pictures)) == 4
    assert sum(passes(MotionGate(0.002, longest_s=float("inf")), pictures)) == 1


def test_another_size_and_a_clock_that_goes_back_count_as_motion() -> None:
    gate = MotionGate(0.002)
    assert gate.passes(scene(), 100)
    assert gate.passes(np.ascontiguousarray(scene()[:240]), 101)
    assert gate.passes(np.ascontiguousarray(scene()[:240]), 50)


def test_the_saving_on_a_yard_where_somebody_walks_through_now_and_then() -> None:
    """docs/howto/sources.md says this number: 100 pictures, in 12 of which somebody walks."""
    rng = np.random.default_rng(9)
    pictures, moving = [], []
    for number in range(100):
        pixels = shot(scene(), rng, light=6 * np.sin(number / 9))
        walking = 40 <= number < 52
        pictures.append(walker(pixels, 60 + 40 * (number - 40)) if walking else pixels)
        moving.append(walking)
    found = passes(MotionGate(0.002), pictures)
    assert all(one for one, walking in zip(found, moving, strict=True) if walking)
    assert sum(found) == 14  # the first, the twelve, and the empty yard after them

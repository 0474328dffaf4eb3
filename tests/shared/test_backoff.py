"""Devices that lost one server do not come back in one moment, nor ever later."""

from __future__ import annotations

import random

from shared.backoff import Backoff


def test_delays_double_up_to_a_limit_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(1.0, 30.0, random.Random(1))
    delays = [backoff.next_s() for _ in range(3000)]
    for number, delay in enumerate(delays):
        full = min(30.0, 2.0 ** min(number, 10))
        assert full / 2 <= delay <= full
    backoff.reset()
    assert backoff.next_s() <= 1.0


def test_two_devices_wait_differently() -> None:
    first, second = (Backoff(rng=random.Random(seed)) for seed in (1, 2))
    assert [first.next_s() for _ in range(5)] != [second.next_s() for _ in range(5)]

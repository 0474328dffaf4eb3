"""Two servers with one log: killed in turn, with devices that go from one to the other."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from shared.bundle import Bundle
from tests.support.crashes import (
    TIMEOUT_S,
    Servers,
    Watcher,
    check_exactly_once,
    check_values,
    rounds,
    wait_for_acks,
)
from tests.support.device import Device
from tests.support.predicting import coded, moving

MORE_ROUNDS = 10
GROUP = 30
"""Frames from one key frame to the next."""


@pytest.mark.timeout(TIMEOUT_S)
def test_no_frame_is_lost_or_doubled_and_followers_of_both_see_one_order(
    make_servers: Callable[[str], Servers], tiny_bundle: Bundle
) -> None:
    """Devices send groups of pictures."""
    rng = random.Random("shared")
    pair = [make_servers("a"), make_servers("b")]
    for one in pair:
        one.start()
    group = coded(tiny_bundle, moving(GROUP))
    devices = [
        Device(name, lambda: random.choice(pair).address, *group)
        for name in ("left", "right", "middle")
    ]
    watchers = [Watcher(one) for one in pair]
    for thread in (*devices, *watchers):
        thread.start()

    def kill(number: int) -> None:
        victim = pair[number % 2]
        victim.kill()
        victim.address = pair[1 - number % 2].address
        time.sleep(rng.uniform(0.0, 1.0))
        victim.start()

    for number in rounds():
        wait_for_acks(devices)
        time.sleep(rng.uniform(0.1, 0.5))
        kill(number)
    # Some were killed with frames in hand, or this shows less than it says.
    for number in range(MORE_ROUNDS):
        if any(one.events("recovering") for one in pair):
            break
        wait_for_acks(devices, 10)
        kill(number)
    for device in devices:
        device.finish(90)
    for one, watcher in zip(pair, watchers, strict=True):
        check_exactly_once(one.address, devices, watcher)
        watcher.stop.set()
    check_values(pair[0].address, tiny_bundle, devices)
    assert max(device.connections for device in devices) > 1
    assert any(one.events("recovering") for one in pair)
    for one in pair:
        assert one.stop() == 0

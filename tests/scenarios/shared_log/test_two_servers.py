"""Two servers with one log: killed in turn, with devices that go from one to the other."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from edge_client.encoder import EdgeEncoder
from tests.support.crashes import ROUNDS, Servers, Watcher, check_exactly_once
from tests.support.device import Device


@pytest.mark.timeout(180 + 40 * ROUNDS)
def test_no_frame_is_lost_or_doubled_and_followers_of_both_see_one_order(
    make_servers: Callable[[str], Servers], encoder: EdgeEncoder, image: object
) -> None:
    rng = random.Random("shared")
    pair = [make_servers("a"), make_servers("b")]
    for one in pair:
        one.start()
    bitstream = encoder.encode(image)  # type: ignore[arg-type]
    devices = [
        Device(name, lambda: random.choice(pair).address, bitstream)
        for name in ("left", "right", "middle")
    ]
    watchers = [Watcher(one) for one in pair]
    for thread in (*devices, *watchers):
        thread.start()
    for number in range(ROUNDS):
        time.sleep(rng.uniform(0.5, 2.0))
        victim = pair[number % 2]
        victim.kill()
        victim.address = pair[1 - number % 2].address
        time.sleep(rng.uniform(0.0, 2.0))
        victim.start()
    for device in devices:
        device.finish(90)
    for one, watcher in zip(pair, watchers, strict=True):
        check_exactly_once(one.address, devices, watcher)
        watcher.stop.set()
    assert max(device.connections for device in devices) > ROUNDS // 3
    assert any(one.events("recovering") for one in pair), "some were killed with frames in hand"
    for one in pair:
        assert one.stop() == 0

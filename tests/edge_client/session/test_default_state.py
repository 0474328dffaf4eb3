"""What a session sends where nobody asks for a rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.rate import RateControl
from edge_client.session import EdgeSession
from shared.bundle import ADVICE_NAME, Advice, Bundle
from shared.wire.commands import RatePolicy
from tests.support.servers import FixedTask, ServerThread
from tests.support.tiny_bundle import make_tiny_bundle

Start = Callable[..., ServerThread]
DEFAULT = 2


@pytest.fixture
def advised(tmp_path: Path) -> Bundle:
    make_tiny_bundle(tmp_path / "advised")
    (tmp_path / "advised" / ADVICE_NAME).write_bytes(Advice(default_state=DEFAULT).to_bytes())
    return Bundle.load(tmp_path / "advised")


@pytest.fixture
def server(start_server: Start, advised: Bundle) -> ServerThread:
    tasks = {"calm": lambda: FixedTask("calm")}
    return start_server(tasks, bundle=advised.origin, bundles=())


def test_a_device_learns_the_default_state_with_the_bundle(
    server: ServerThread, advised: Bundle, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    with EdgeSession(server.address, bundle_cache_dir=tmp_path / "cache") as session:
        assert session.bundle.id == advised.id
        assert session.send(image).state == DEFAULT
        assert session.send(image, state=4).state == 4
        assert session.send(image, state=0).state == 0
        assert session.send(image, bits_per_pixel=24.0).state == 0
        assert session.analyze(image).state == DEFAULT
        assert [one.state for one in session.stream([image, image])] == [DEFAULT] * 2


def test_what_is_finer_than_the_default_state_can_be_asked_for_later(
    server: ServerThread, advised: Bundle, image: NDArray[np.uint8]
) -> None:
    with EdgeSession(server.address, bundle=advised) as session:
        first = session.send(image, refinable=True)
        assert first.state == DEFAULT
        assert session.refine(first.sequence, state=0).state == 0


def test_a_budget_is_used_beyond_the_default_state_and_a_policy_obeyed(
    server: ServerThread, advised: Bundle, image: NDArray[np.uint8]
) -> None:
    control = RateControl(bits_per_second=1e9)
    with EdgeSession(server.address, bundle=advised, control=control) as session:
        assert session.send(image).state == 0
    control = RateControl()
    control.set_policy(RatePolicy(max_frames_per_second=1000.0))
    with EdgeSession(server.address, bundle=advised, control=control) as session:
        assert session.send(image).state == DEFAULT

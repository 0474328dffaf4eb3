"""The budget holds, states settle quickly, and never more than two are used at one bandwidth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.rate import RateControl
from edge_client.rate.control import BURST_S
from shared.bundle import StateSpec
from shared.errors import BudgetError
from shared.targets import RateTarget
from shared.wire.commands import RatePolicy
from shared.wire.transport import KEEPALIVE_TIMEOUT_S
from tests.support.simulated_links import PIXELS, Link, ladder

FOLLOWED_S = 10.0
LADDER = ladder(1.5, 6, 0.02)  # 768 to 5832 bytes a frame


@st.composite
def links(draw: st.DrawFn) -> dict[str, Any]:
    """Of a link and its ladder; a frame at the finest state takes 20 s at most on the slowest."""
    growth = draw(st.floats(1.15, 2.5))
    bandwidth = draw(st.floats(300, 30_000))
    most = 1 + int(math.log(max(growth, 20 * bandwidth / 768)) / math.log(growth))
    return {
        "bandwidth": bandwidth,
        "ladder": ladder(growth, min(draw(st.integers(2, 9)), most), 0.02),
        "propagation_s": draw(st.floats(0.001, 0.6)),
        "noise": draw(st.floats(0.0, 0.2)),
        "jitter_s": draw(st.floats(0.0, 0.02)),
        "offered_fps": draw(st.floats(1.0, 8.0)),
        "seed": draw(st.integers(0, 1000)),
    }


def control_of(clock: Callable[[], float]) -> RateControl:
    return RateControl(8e6, clock=clock)


@settings(max_examples=25)
@given(made=links())
def test_at_constant_bandwidth_at_most_two_states_are_used(made: dict[str, Any]) -> None:
    bandwidth = made.pop("bandwidth")
    link = Link(control_of, lambda _: bandwidth, **made)
    link.run(240)
    used = {state for at, state in link.states if at > 60}
    assert used
    assert len(used) <= 2, sorted(used)
    assert max(used) - min(used) <= 1


@settings(max_examples=25)
@given(made=links(), after=st.floats(800, 30_000))
def test_a_change_of_bandwidth_is_followed_within_seconds(
    made: dict[str, Any], after: float
) -> None:
    changed_s, settled_s = 100.0, 140.0
    before = max(800.0, made.pop("bandwidth"))
    link = Link(control_of, lambda at: before if at < changed_s else after, **made)
    link.run(200)
    settled = {state for at, state in link.states if at > settled_s}
    needs = {row.state: row.typical_bits_per_pixel * PIXELS / 8 for row in link.ladder}
    least, most = needs[max(settled)] / 1.6, needs[min(settled)] * 1.6
    near = {state + d for state in settled for d in (-1, 0, 1)}
    near |= {state for state, need in needs.items() if least <= need <= most}
    # A frame that was under way when the network became slower is let through first.
    under_way_s = max(
        (delay for at, delay in link.delays if changed_s - 10 < at <= changed_s + 1), default=0.0
    )
    astray = [at for at, state in link.states if at > changed_s and state not in near]
    assert max(astray, default=0.0) - changed_s < FOLLOWED_S + under_way_s
    fits = [state for state, need in needs.items() if need <= 0.8 * after]
    assert min(abs(state - min(fits, default=max(needs))) for state in settled) <= 1


@settings(max_examples=30)
@given(budget=st.floats(3_000, 300_000), noise=st.floats(0, 0.3), seed=st.integers(0, 1000))
def test_a_budget_alone_settles_on_two_states_and_is_kept(
    budget: float, noise: float, seed: int
) -> None:
    link = Link(
        lambda clock: RateControl(budget, clock=clock),
        lambda _: 1e9,
        LADDER,
        noise=noise,
        offered_fps=3.0,
        seed=seed,
    )
    link.run(200)
    used = {state for at, state in link.states if at > 60}
    assert len(used) <= 2
    assert sum(size for _, size in link.sent) <= budget / 8 * (200 + BURST_S) + 10_000


@pytest.mark.parametrize("bandwidth", [100.0, 300.0, 700.0])
@pytest.mark.parametrize("propagation_s", [0.05, 0.4])
@pytest.mark.parametrize("offered_fps", [1.0, 8.0])
def test_the_queue_stays_short_on_a_link_that_is_slower_than_its_coarsest_state(
    bandwidth: float, propagation_s: float, offered_fps: float
) -> None:
    link = Link(
        control_of, lambda _: bandwidth, LADDER, propagation_s, 0.15, 0.01, offered_fps=offered_fps
    )
    link.run(300)
    assert {state for at, state in link.states if at > 100} == {LADDER[0].state}
    frame_s = 768 / bandwidth
    # One frame goes and one waits; sizes vary.
    assert max(delay for at, delay in link.delays if at > 100) < 2.35 * frame_s
    carried = sum(size for at, size in link.sent if at > 100)
    assert carried >= 0.88 * 200 * min(bandwidth, 768 * offered_fps)


def test_bundles_whose_states_are_chains_of_one_are_steered_among_all_of_them() -> None:
    ladder = [
        StateSpec(state=state, typical_bits_per_pixel=bits, begins=True)
        for state, bits in enumerate((0.05034, 0.03607, 0.02457, 0.01497))
    ]
    needs = [row.typical_bits_per_pixel * PIXELS / 8 for row in ladder]
    bandwidths = [needs[0] * 2, needs[2] * 1.3, needs[0] * 2]
    link = Link(control_of, lambda at: bandwidths[int(at // 60)], ladder)
    link.run(180)
    used = [{state for at, state in link.states if at % 60 > 20 and at // 60 == k} for k in (0, 1)]
    assert used[0] == {0}
    assert used[1] <= {1, 2}
    assert 2 in used[1]
    assert {state for at, state in link.states if at > 150} == {0}


def test_what_is_no_frame_is_charged_to_the_frames_after_it() -> None:
    now = [0.0]
    control = RateControl(8 * 1_000, clock=lambda: now[0])
    control.posted((1, b"", 0), 400, frame=False)
    now[0] = 0.1
    control.acknowledged((1, b"", 0))
    assert control.wait_s(400) == 0
    control.posted(None, 2_000, frame=False)
    assert control.wait_s(100) > 1.0


@pytest.mark.parametrize("bandwidth", [3_000, 20_000, 10**6])
def test_without_a_budget_no_more_is_under_way_than_keepalive_stands(bandwidth: float) -> None:
    now = 0.0
    control = RateControl(clock=lambda: now)
    free_s, longest_s, acks = 0.0, 0.0, list[tuple[float, int]]()
    for number in range(200):
        while control.wait_s(8_000) > 0:
            assert acks, "nothing is under way, and still a frame must wait"
            now, key = acks.pop(0)
            control.acknowledged(key)
        control.posted(number, 8_000)
        free_s = max(now, free_s) + 8_000 / bandwidth
        longest_s = max(longest_s, free_s - now)
        acks.append((free_s + 0.05, number))
    assert longest_s < KEEPALIVE_TIMEOUT_S
    # The link is kept busy all the same.
    assert free_s < 1.1 * 200 * 8_000 / bandwidth + 0.5


def test_without_a_budget_the_wish_stands() -> None:
    control = RateControl()
    assert control.target(RateTarget(state=3), LADDER, PIXELS) == RateTarget(state=3)


def test_the_operators_policy_stands_within_the_budget() -> None:
    now = [0.0]
    control = RateControl(8 * 2_000, clock=lambda: now[0])
    own = control.target(RateTarget(), LADDER, PIXELS).state
    assert own is not None
    control.set_policy(RatePolicy(state=0))
    assert control.target(RateTarget(), LADDER, PIXELS) == RateTarget(state=own)
    control.set_policy(RatePolicy(state=5))
    assert control.target(RateTarget(), LADDER, PIXELS) == RateTarget(state=5)
    control.set_policy(RatePolicy(bytes_per_second=900))
    assert control.budget_bytes_per_second == 900
    control.set_policy(RatePolicy(bytes_per_second=10**6))
    assert control.budget_bytes_per_second == 2_000
    control.set_policy(RatePolicy(max_frames_per_second=0.5))
    assert control.wait_s(10) == 0
    control.posted(1, 10)
    assert control.wait_s(10) == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bandwidth_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(BudgetError):
        RateControl(bad)

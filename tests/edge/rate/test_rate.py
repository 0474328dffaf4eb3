"""The budget holds, states settle quickly, and never more than two are used at one bandwidth."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.rate import RateControl
from edge_client.rate.bucket import BURST_S, TokenBucket
from shared.codec import RateTarget
from shared.errors import BudgetError
from shared.wire.commands import RatePolicy

from .link import PIXELS, Link, ladder

LADDER = ladder(1.5, 6, 0.02)  # 768 to 5832 bytes a frame


@given(
    rate=st.floats(1_000, 1e6),
    sizes=st.lists(st.tuples(st.integers(1, 200_000), st.floats(0, 5)), min_size=1, max_size=60),
)
def test_a_bucket_stays_under_its_budget_over_any_span(
    rate: float, sizes: list[tuple[int, float]]
) -> None:
    bucket = TokenBucket(rate, 0.0)
    now = 0.0
    sent: list[tuple[float, int]] = []
    for size, pause in sizes:
        now += pause
        while (wait := bucket.wait_s(size, now)) > 0:
            now += wait
        bucket.spend(size, now)
        sent.append((now, size))
    for first in range(len(sent)):
        total = 0
        for at, size in sent[first:]:
            total += size
            span = at - sent[first][0]
            assert total - size <= rate * (span + BURST_S) + 1 or span == 0
    assert sum(size for _, size in sent[:-1]) <= rate * (now + BURST_S) + 1


@settings(max_examples=40)
@given(
    bandwidth=st.floats(300, 30_000),
    growth=st.floats(1.15, 2.5),
    count=st.integers(2, 9),
    propagation=st.floats(0.001, 0.6),
    noise=st.floats(0.0, 0.2),
    offered=st.floats(1.0, 8.0),
    seed=st.integers(0, 1000),
)
def test_at_constant_bandwidth_at_most_two_states_are_used(
    bandwidth: float,
    growth: float,
    count: int,
    propagation: float,
    noise: float,
    offered: float,
    seed: int,
) -> None:
    link = Link(
        lambda clock: RateControl(8e6, clock=clock),
        lambda _: bandwidth,
        ladder(growth, count, 0.02),
        propagation,
        noise,
        offered,
        seed,
    )
    link.run(300)
    used = {state for at, state in link.states if at > 120}
    assert len(used) <= 2, sorted(used)
    assert max(used) - min(used) <= 1


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


@pytest.mark.parametrize(("before", "after"), [(8_000, 1_200), (1_200, 8_000), (20_000, 900)])
def test_states_follow_a_change_of_bandwidth_within_seconds(before: float, after: float) -> None:
    changed_s = 100.0
    link = Link(
        lambda clock: RateControl(8e6, clock=clock),
        lambda at: before if at < changed_s else after,
        LADDER,
        offered_fps=1.0,
    )
    link.run(200)
    settled = {state for at, state in link.states if at > changed_s + 60}
    soon = [state for at, state in link.states if changed_s + 40 < at < changed_s + 50]
    assert soon
    assert set(soon) <= {*settled, *(s + 1 for s in settled), *(s - 1 for s in settled)}
    fits = [r.state for r in LADDER if r.typical_bits_per_pixel * PIXELS / 8 <= after * 0.85]
    finest_that_fits = min(fits, default=LADDER[0].state)
    assert min(abs(state - finest_that_fits) for state in settled) <= 1
    late = [delay for at, delay in link.delays if at > changed_s + 40]
    assert max(late) < 10.0


def test_the_queue_stays_short_on_a_link_that_is_slower_than_its_coarsest_state() -> None:
    link = Link(lambda clock: RateControl(8e6, clock=clock), lambda _: 300.0, LADDER)
    link.run(200)
    assert {state for at, state in link.states if at > 30} == {LADDER[0].state}
    frame_s = 768 / 300
    # The first frames are of the finest state, and take twenty seconds each.
    assert max(delay for at, delay in link.delays if at > 140) < 8 * frame_s
    assert len([at for at, _ in link.states if at > 100]) >= 0.8 * 100 / frame_s


def test_without_a_budget_nothing_waits_and_the_wish_stands() -> None:
    control = RateControl()
    assert control.wait_s(10**9) == 0
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
    control.sent(1, 10)
    assert control.wait_s(10) == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bandwidth_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(BudgetError):
        RateControl(bad)

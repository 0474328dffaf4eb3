"""A rate of a stream: kept by the average, key frames fit, still scenes become fine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_client.rate import RateControl
from edge_client.rate.bucket import BUCKET_S, EXCESS, WINDOW_S, cost
from edge_client.rate.costs import StateCosts, Told
from edge_client.rate.stream import StreamClock
from shared.errors import BudgetError
from shared.targets import RateTarget
from shared.wire.commands import RatePolicy
from tests.support.simulated_streams import (
    COARSEST,
    LAYERS,
    MOVING,
    PIXELS,
    SIZE,
    STILL,
    WILD,
    Camera,
    SentFrame,
    embedded_manifest,
    most_over,
)

Clock = Callable[[], float]


def within(rate: float | None) -> Callable[[Clock], RateControl]:
    """A control with so many bytes a second."""
    bits = None if rate is None else 8 * rate
    return lambda clock: RateControl(bits, clock=clock, stream=True)


def ten_seconds(frames: Sequence[SentFrame]) -> float:
    most = most_over(frames, WINDOW_S, cost)
    return (most - cost(100)) / WINDOW_S  # one frame more or less is rounding


def changes(frames: Sequence[SentFrame]) -> int:
    return sum(a.state != b.state for a, b in pairwise(frames))


@st.composite
def scenes(draw: st.DrawFn) -> dict[str, Any]:
    spans = draw(
        st.lists(
            st.tuples(st.floats(2, 20), st.sampled_from([STILL, MOVING / 3, MOVING, WILD])),
            min_size=1,
            max_size=8,
        )
    )
    whole = sum(span for span, _ in spans)

    def activity(at_s: float) -> float:
        at_s %= whole
        for span, share in spans:
            if at_s < span:
                return share
            at_s -= span
        return spans[-1][1]

    return {
        "activity": activity,
        "cuts": draw(st.lists(st.floats(0, 80), max_size=8)),
        "keys_s": draw(st.sampled_from([5.0, 25.0, 60.0])),
        "fps": draw(st.sampled_from([1.0, 3.0, 10.0, 25.0])),
        "noise": draw(st.floats(0.0, 0.6)),
        "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(made=scenes(), rate=st.floats(500, 20_000))
def test_the_average_keeps_the_rate_and_latency_the_bucket(
    made: dict[str, Any], rate: float
) -> None:
    camera = Camera(within(rate), **made)
    frames = camera.run(80)
    coarsest_key = cost(1.2 * LAYERS[0])
    assert ten_seconds(frames) <= EXCESS * rate + coarsest_key / WINDOW_S
    assert most_over(frames, 80, cost) <= rate * (80 + BUCKET_S) + coarsest_key
    longest_s = max(BUCKET_S, coarsest_key / rate)
    assert max(frame.posted_s - frame.at_s for frame in frames) <= longest_s + 0.3
    # No frame is left out where the coarsest state fits.
    busiest = max(made["activity"](at / 4) for at in range(320))
    keys = (1 / made["keys_s"] + len(made["cuts"]) / 10) * coarsest_key
    if cost(LAYERS[0] * busiest * (1 + made["noise"])) * made["fps"] + keys < 0.8 * rate:
        assert len(frames) >= 0.99 * camera.offered  # but for one now and then as it begins to move


@pytest.mark.parametrize(
    ("rate", "state"), [(2_300, 4), (3_000, 3), (4_000, 2), (5_000, 1), (8_000, 0)]
)
def test_a_moving_scene_has_the_finest_state_that_fits_and_keeps_it(rate: int, state: int) -> None:
    frames = Camera(within(rate), lambda at: MOVING).run(120)
    settled = [frame for frame in frames if frame.at_s > 20]
    assert sum(frame.state == state for frame in settled) > 0.9 * len(settled)
    assert changes(settled) <= 4
    assert ten_seconds(frames) <= EXCESS * rate


def test_key_frames_take_more_than_the_frames_between_them() -> None:
    rate = 5_000
    frames = Camera(within(rate), lambda at: MOVING, keys_s=5.0).run(60)
    keys = [frame.size for frame in frames if frame.key and frame.at_s > 10]
    assert min(keys) > 3 * rate / 10, "a key frame of the coarsest state is 700 bytes"
    assert ten_seconds(frames) <= EXCESS * rate


def test_a_still_scene_becomes_fine_within_seconds_and_stays_so() -> None:
    frames = Camera(within(2_300), lambda at: MOVING if at < 30 else STILL, keys_s=100).run(90)
    moving = [frame.state for frame in frames if 10 < frame.at_s < 30]
    assert min(moving) >= COARSEST - 1
    still = [frame for frame in frames if frame.at_s > 45]
    assert {frame.state for frame in still} == {0}
    assert sum(frame.size for frame in still) / len(still) < 60
    steps = [frame.state for frame in frames if 30 < frame.at_s < 45]
    assert all(0 <= a - b <= 1 for a, b in pairwise(steps)), "layer by layer"


def test_what_moves_again_is_coarser_again_and_within_the_rate() -> None:
    camera = Camera(within(2_500), lambda at: STILL if at % 40 < 25 else MOVING, keys_s=300)
    frames = camera.run(160)
    for begin in (40, 80, 120):
        rest = [frame.state for frame in frames if begin + 20 < frame.at_s < begin + 25]
        busy = [frame.state for frame in frames if begin + 32 < frame.at_s < begin + 40]
        assert set(rest) == {0}
        assert min(busy) >= 2
    assert ten_seconds(frames) <= EXCESS * 2_500
    assert len(frames) == camera.offered


def test_a_cut_is_sent_as_coarsely_as_it_must_and_refined_by_what_follows() -> None:
    frames = Camera(within(3_500), lambda at: MOVING / 3, cuts=[20.0, 21.0], keys_s=300).run(40)
    cut = [frame for frame in frames if frame.key and frame.at_s > 5]
    assert [frame.at_s for frame in cut] == [20.0, 21.0]
    assert cut[1].state > 0
    after = [frame.state for frame in frames if frame.at_s > 35]
    assert set(after) == {0}
    assert ten_seconds(frames) <= EXCESS * 3_500


def test_where_even_the_coarsest_state_does_not_fit_frames_are_left_out() -> None:
    rate = 1_000
    camera = Camera(within(rate), lambda at: WILD)
    frames = camera.run(100)
    assert {frame.state for frame in frames if frame.at_s > 20} == {COARSEST}
    assert len(frames) < camera.offered
    assert 0.9 * rate < sum(cost(frame.size) for frame in frames) / 100 < 1.05 * rate


def test_a_network_that_is_slower_than_the_rate_is_not_flooded() -> None:
    frames = Camera(within(100_000), lambda at: MOVING, bandwidth=4_000).run(100)
    settled = [frame for frame in frames if frame.at_s > 20]
    assert max(frame.there_s - frame.at_s for frame in settled) < BUCKET_S
    assert len(settled) > 0.95 * 80 * 10
    assert changes(settled) <= 6


@pytest.mark.parametrize("busy_s", [0.15, 0.4])
def test_a_busy_server_is_no_slow_network(busy_s: float) -> None:
    """In a still scene frames have few bytes, and whatever they wait for looks like a slow line."""

    def states(*, says: bool) -> list[int]:
        still = Camera(within(2_300), lambda _: STILL, keys_s=100, busy_s=busy_s, says=says)
        return [frame.state for frame in still.run(90) if frame.at_s > 20]

    assert set(states(says=True)) == {0}
    assert max(states(says=False)) > 0, "this server does not look like one: the test shows nothing"


@pytest.mark.parametrize("activity", [MOVING, MOVING / 3])
@pytest.mark.parametrize("bits_per_pixel", [0.003, 0.005, 0.01])
def test_bits_a_pixel_are_an_average_over_frames(bits_per_pixel: float, activity: float) -> None:
    wanted = RateTarget(bits_per_pixel=bits_per_pixel)
    frames = Camera(within(None), lambda at: activity, wanted=wanted).run(120)
    budget = bits_per_pixel * PIXELS / 8
    assert max(frame.size for frame in frames) > budget, "key frames take more"
    for first in range(0, len(frames) - 100, 25):
        hundred = frames[first : first + 100]
        assert sum(frame.size for frame in hundred) <= 100 * budget * EXCESS + LAYERS[0]
    mean = sum(frame.size for frame in frames) / len(frames)
    finest = {frame.state for frame in frames if frame.at_s > 20} == {0}
    assert mean > 0.6 * budget or finest


def test_bits_a_pixel_that_are_too_few_leave_frames_out_with_an_error() -> None:
    control, manifest = RateControl(stream=True), embedded_manifest()
    wanted = RateTarget(bits_per_pixel=0.0001)  # 5.5 bytes a frame
    camera = Camera(within(None), lambda at: WILD, wanted=wanted)
    with pytest.raises(BudgetError, match="coarsest") as found:
        camera.run(10)
    assert found.value.reason == "budget_too_small"
    assert control.plan(wanted, manifest, SIZE, PIXELS, held=None) is not None


@pytest.mark.parametrize("bits_per_pixel", [0.0, 1e-9])
def test_bits_a_pixel_that_leave_no_byte_are_refused(bits_per_pixel: float) -> None:
    control, manifest = RateControl(stream=True), embedded_manifest()
    for held in (None, 0):
        wanted = RateTarget(bits_per_pixel=bits_per_pixel)
        with pytest.raises(BudgetError, match="less than a byte") as found:
            control.plan(wanted, manifest, SIZE, PIXELS, held=held)
        assert found.value.reason == "budget_too_small"


def test_a_rate_at_which_a_key_frame_takes_minutes_is_refused() -> None:
    control, manifest = RateControl(1.0, stream=True), embedded_manifest()
    with pytest.raises(BudgetError, match="seconds' worth of 1 bits a second") as found:
        control.plan(RateTarget(), manifest, SIZE, PIXELS, held=None)
    assert found.value.reason == "budget_too_small"


def test_a_stream_does_not_begin_finer_than_it_can_go_on() -> None:
    """Of the first frames nobody knows how many there will be a second."""
    camera = Camera(within(2_500), lambda at: MOVING, fps=10.0)
    frames = camera.run(30)
    began, settled = frames[0].state, [frame.state for frame in frames[100:]]
    assert began >= min(settled)
    assert max(frame.state for frame in frames[:100]) <= max(began, *settled)


def test_an_operators_policy_is_of_the_stream_too() -> None:
    manifest, wanted = embedded_manifest(), RateTarget(state=1)
    control = RateControl(stream=True)
    assert control.plan(wanted, manifest, SIZE, PIXELS, held=None) is None, "a fixed state stays"
    control.set_policy(RatePolicy(bits_per_pixel=0.01))
    assert control.plan(wanted, manifest, SIZE, PIXELS, held=None) is not None
    control.set_policy(RatePolicy(frame_bytes=500))
    assert control.plan(wanted, manifest, SIZE, PIXELS, held=None) is None, "of each frame"
    control = RateControl(stream=True)
    control.set_policy(RatePolicy(bytes_per_second=100_000))
    plan = control.plan(wanted, manifest, SIZE, PIXELS, held=None)
    assert plan is not None
    assert plan.target == RateTarget(state=1), "no finer than was wanted"
    control.set_policy(RatePolicy(bytes_per_second=100_000, state=2))
    plan = control.plan(wanted, manifest, SIZE, PIXELS, held=None)
    assert plan is not None
    assert plan.target == RateTarget(state=2), "nor than the operator wants"
    assert RateControl(8e5).plan(wanted, manifest, SIZE, PIXELS, held=None) is None


def test_states_of_other_chains_cost_a_key_frame() -> None:
    sizes = [100.0, 200.0, 400.0]
    one, each = StateCosts(sizes, [0, 0, 0]), StateCosts(sizes, [2, 1, 0])
    for costs, held in ((one, 1), (each, 1)):
        costs.learn(Told({0: 10, 1: 20}, held))
    assert one.change(1, 2) == pytest.approx(20 + 200)
    assert each.change(1, 2) == 400
    assert one.change(2, 0) == pytest.approx(10)
    assert one.predicted(2) == pytest.approx(40), "in proportion, as long as nothing is known"


def test_the_time_of_a_stream_is_that_of_its_pictures() -> None:
    clock = StreamClock(1.0)
    for number in range(10):  # a file, read at twice its speed
        clock.frame(number * 0.1, 1e9 + number * 0.2)
    assert clock.now_s == pytest.approx(1.8)
    assert clock.fps == pytest.approx(5.0)
    clock.held_up()
    clock.frame(5.0, 1e9 + 9 * 0.2 + 3.0)
    assert clock.fps == pytest.approx(5.0), "who was held up is not slower for that"
    clock.frame(5.1, 1e9)
    assert clock.now_s == pytest.approx(4.9), "time never goes back"

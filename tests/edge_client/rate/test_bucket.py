"""What a bucket lets through keeps its rate over any span, and closely over ten seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.rate.bucket import BUCKET_S, EXCESS, WINDOW_S, Bucket


@given(
    rate=st.floats(1_000, 1e6),
    messages=st.lists(st.tuples(st.floats(0.001, 3.0), st.floats(0, 5)), min_size=1, max_size=60),
)
def test_no_span_has_more_than_the_rate_and_a_bucket(
    rate: float, messages: list[tuple[float, float]]
) -> None:
    bucket = Bucket(rate, 0.0)
    now = 0.0
    sent: list[tuple[float, float]] = []
    for seconds, pause in messages:
        size = seconds * rate
        now += pause
        while (wait := bucket.wait_s(size, now)) > 0:
            now += wait
        bucket.spend(size, now)
        sent.append((now, size))
    for first in range(len(sent)):
        total = 0.0
        for at, size in sent[first:]:
            total += size
            span = at - sent[first][0]
            largest = 0.0 if size <= rate * BUCKET_S else size
            assert total - largest <= rate * (span + BUCKET_S) + 2 * len(sent) or span == 0


@given(
    messages=st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(0, 3)), min_size=1, max_size=200)
)
def test_ten_seconds_have_hardly_more_than_their_worth(
    messages: list[tuple[float, float]],
) -> None:
    rate, now = 1e4, 0.0
    bucket = Bucket(rate, now)
    sent: list[tuple[float, float]] = []
    for seconds, pause in messages:
        now += pause
        while (wait := bucket.wait_s(seconds * rate, now)) > 0:
            now += wait
        bucket.spend(seconds * rate, now)
        sent.append((now, seconds * rate))
    for at, _ in sent:
        recent = sum(size for then, size in sent if at - WINDOW_S < then <= at)
        assert recent <= EXCESS * rate * WINDOW_S * (1 + 1e-3)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.7, 3.0, 7.0])
def test_the_rate_is_used_up_whatever_the_size_of_messages(seconds: float) -> None:
    bucket, now, total = Bucket(1e4, 0.0), 0.0, 0.0
    while now < 300:
        while (wait := bucket.wait_s(seconds * 1e4, now)) > 0:
            now += wait
        bucket.spend(seconds * 1e4, now)
        total += seconds * 1e4
    assert 0.95 < total / (now * 1e4) < 1.05


def test_another_rate_holds_from_now_on() -> None:
    bucket = Bucket(100.0, 0.0)
    bucket.set_rate(10.0, 0.0)
    assert bucket.room(0.0) == pytest.approx(20.0)
    bucket.spend(20.0, 0.0)
    assert bucket.wait_s(10.0, 0.0) == pytest.approx(1.0)

"""The log: a frame is kept once, its result is recorded once, whatever is sent and restarted."""

from __future__ import annotations

import asyncio
import random

import pytest

from cloud_server.results.log import ResultLog
from cloud_server.results.records import Accepted, Filter, NewFrame, Submission
from shared.errors import SessionError
from shared.proto.featherwire.v1 import results_pb2, types_pb2
from tests.support.logs import KEY, Open, V, accept, outcome, take


async def test_a_frame_is_new_once_and_known_after_a_restart(open_log: Open) -> None:
    log = open_log()
    first = await take(log, 1)
    again = await accept(log, KEY, 1, V, b"another message")
    assert again == Accepted(first, new=False)
    log = open_log()
    again = await accept(log, KEY, 1, V, b"another message")
    assert again == Accepted(first, new=False)
    record = await log.complete(first, outcome("cat"))
    assert (await accept(log, KEY, 1, V, b"")).record == record
    assert await log.frame_messages(KEY, 1) == [b"frame 1"]
    # Another session, or another device, has frames of its own.
    for key in (("camera", "two"), ("other", "one")):
        assert (await accept(log, key, 1, V, b"x")).new


async def test_frames_that_come_together_are_kept_in_their_order_each_once(open_log: Open) -> None:
    log = open_log()
    known = await take(log, 3)
    await log.complete(known, outcome("cat"))
    sent = [(1, b"1"), (3, b"3 again"), (2, b"2"), (1, b"1 again"), (4, b"4")]
    frames = [
        NewFrame(sequence, V, message, outcome=None if sequence == 4 else outcome("dog"))
        for sequence, message in sent
    ]
    accepted = await log.accept(KEY, frames)
    assert [one.new for one in accepted] == [True, False, True, False, True]
    first, _, _, again, last = accepted
    numbers = [one.record and one.record.result_id for one in accepted]
    assert numbers == [2, 1, 3, 2, None]
    assert again == Accepted(first.submission, new=False, record=first.record)
    log = open_log()
    assert await log.pending() == [last.submission]
    assert [await log.frame_messages(KEY, n) for n in (1, 2, 3)] == [[b"1"], [b"2"], [b"frame 3"]]
    page = await log.read(Filter(), 0, 10)
    assert [(one.cursor, one.sequence) for one in page.records] == [(1, 3), (2, 1), (3, 2)]
    assert [one.new for one in await log.accept(KEY, frames)] == [False] * 5
    assert (await take(log, 5)).id > last.submission.id  # type: ignore[union-attr]


async def test_a_result_is_recorded_once_and_never_changed(open_log: Open) -> None:
    log = open_log()
    submission = await take(log, 1)
    first, second = await asyncio.gather(
        log.complete(submission, outcome("cat")), log.complete(submission, outcome("dog"))
    )
    assert second == first
    assert (await open_log().complete(submission, outcome("horse"))) == first
    page = await open_log().read(Filter(), 0, 10)
    assert page.records == [first]


async def test_its_picture_is_not_kept_and_the_record_says_so(log: ResultLog) -> None:
    with_picture = outcome("cat")
    with_picture.picture.data = b"x" * 100_000
    record = await log.complete(await take(log, 1), with_picture)
    message = record.to_message()
    assert not message.outcome.HasField("picture")
    assert message.outcome.picture_error.reason == "picture_not_kept"
    assert len(record.outcome) < 1000
    assert with_picture.HasField("picture")  # the caller's is left alone


async def test_random_traffic_with_restarts_agrees_with_a_model(open_log: Open) -> None:
    rng = random.Random("log")
    log = open_log()
    keys = [("a", "1"), ("a", "2"), ("b", "1")]
    waiting: dict[tuple[tuple[str, str], int], Submission] = {}
    done: list[tuple[tuple[str, str], int]] = []
    for step in range(250):
        if step % 50 == 49:
            log = open_log()
            pending = {(one.key, one.sequence): one for one in await log.pending()}
            assert set(pending) == set(waiting)
            waiting = pending
        key, sequence = rng.choice(keys), rng.randint(1, 40)
        if rng.random() < 0.6:
            accepted = await accept(log, key, sequence, V, b"m")
            known = (key, sequence) in waiting or (key, sequence) in done
            assert accepted.new is not known
            assert (accepted.record is not None) == ((key, sequence) in done)
            if accepted.new:
                assert accepted.submission is not None
                waiting[key, sequence] = accepted.submission
        elif waiting:
            name = rng.choice(sorted(waiting))
            await log.complete(waiting.pop(name), outcome("cat"))
            done.append(name)
    assert len(done) > 30
    records = (await log.read(Filter(), 0, 1000)).records
    assert [(one.key, one.sequence) for one in records] == done
    assert [one.cursor for one in records] == list(range(1, len(done) + 1))
    for key in keys:
        ids = [one.result_id for one in records if one.key == key]
        assert ids == list(range(1, len(ids) + 1))
        taken = {n for k, n in [*waiting, *done] if k == key}
        prefix = next(n for n in range(1, 99) if n not in taken) - 1
        assert await log.resume_after(key) == (prefix, len(ids))
        assert [one.result_id for one in await log.results_after(key, 2, 3)] == ids[2:5]


async def test_many_at_once_are_answered_in_their_order(log: ResultLog) -> None:
    answered: list[int] = []

    async def one(sequence: int) -> None:
        assert (await accept(log, KEY, sequence, V, b"m")).new
        answered.append(sequence)

    sequences = random.Random(1).sample(range(1, 401), 400)
    await asyncio.gather(*(one(sequence) for sequence in sequences))
    assert answered == sequences
    assert await log.resume_after(KEY) == (400, 0)


async def test_frames_that_never_come_hold_nothing_up_for_longer_than_the_window(
    open_log: Open,
) -> None:
    log = open_log(window=10)
    for sequence in (1, 2, 5, 12):
        await take(log, sequence)
    assert await log.resume_after(KEY) == (2, 0)
    await take(log, 3)  # late, but not too late
    await take(log, 14)
    assert await log.resume_after(KEY) == (5, 0)
    assert await accept(log, KEY, 4, V, b"too late") == Accepted(None, new=False)
    assert await accept(open_log(window=10), KEY, 4, V, b"") == Accepted(None, new=False)


# -- refinements ---------------------------------------------------------------------------------


async def test_a_refinement_follows_on_what_the_log_has(open_log: Open) -> None:
    log = open_log()
    frame = await take(log, 1)
    seen: list[list[bytes]] = []

    def check(messages: object) -> str:
        seen.append(list(messages))  # type: ignore[call-overload]
        return "merged"

    # No bundle is the frame's first.
    accepted = await log.accept_refinement(KEY, 1, (b"", 1), b"refine", check)
    assert (accepted.new, accepted.value) == (True, "merged")
    assert accepted.submission is not None
    assert (accepted.submission.number, accepted.submission.version) == (1, (b"bundle-1", 1))
    log = open_log()
    again = await log.accept_refinement(KEY, 1, (b"bundle-1", 1), b"refine", check)
    assert (again.new, again.submission) == (False, accepted.submission)
    await log.accept_refinement(KEY, 1, (b"bundle-2", 8), b"other", check)
    assert seen == [[b"frame 1"], [b"frame 1", b"refine"]]
    assert await log.frame_messages(KEY, 1) == [b"frame 1", b"refine", b"other"]
    assert [one.number for one in await log.pending()] == [0, 1, 2]
    # Each has its own result, and the newest is the frame's.
    for submission in (frame, accepted.submission):
        last = await log.complete(submission, outcome())
    assert await log.record_of_frame(KEY, 1) == last
    assert last.version == (b"bundle-1", 1)
    # A restart takes each up with the messages that it had.
    assert await log.attempt(accepted.submission) == (1, [b"frame 1", b"refine"])
    assert (await log.attempt(accepted.submission))[0] == 2


async def test_a_refinement_that_does_not_follow_is_not_kept(log: ResultLog) -> None:
    await take(log, 1)

    def refuse(messages: object) -> None:
        raise SessionError("layer_gap", f"after {messages}")

    with pytest.raises(SessionError, match="frame 1"):
        await log.accept_refinement(KEY, 1, (b"", 1), b"refine", refuse)
    with pytest.raises(SessionError, match=r"after \[\]"):
        await log.accept_refinement(KEY, 77, (b"", 1), b"refine", refuse)
    assert await log.frame_messages(KEY, 1) == [b"frame 1"]
    assert len(await log.pending()) == 1


# -- reading -------------------------------------------------------------------------------------


def wanted(**fields: list[str]) -> Filter:
    return Filter.parse(results_pb2.ResultFilter(**fields))


async def test_filters_say_the_same_to_the_database_and_to_live_records(log: ResultLog) -> None:
    made = [
        (("a", "1"), outcome("cat", "dog")),
        (("a", "2"), outcome("cat", task="segmentation")),
        (("b", "1"), outcome("dog")),
        (("b", "1"), types_pb2.FrameOutcome(error=types_pb2.Error(reason="bad"))),
        (("c", "1"), outcome("nul\0class", "x" * 5000)),
    ]
    live = []
    for number, (key, found) in enumerate(made, start=1):
        accepted = await accept(log, key, number, V, b"m")
        assert accepted.submission is not None
        live.append(await log.complete(accepted.submission, found))
    for filter_, expected in (
        (wanted(), [1, 2, 3, 4, 5]),
        (wanted(devices=["a"]), [1, 2]),
        (wanted(devices=["a", "b"], sessions=["1"]), [1, 3, 4]),
        (wanted(tasks=["detection"]), [1, 3, 5]),
        (wanted(tasks=["detection", "segmentation"], class_names=["cat"]), [1, 2]),
        (wanted(class_names=["dog"], devices=["b"]), [3]),
        (wanted(class_names=["d%"]), []),
        (wanted(class_names=["nul\0class"]), [5]),
    ):
        page = await log.read(filter_, 0, 10)
        assert [one.sequence for one in page.records] == expected
        assert [one.sequence for one in live if filter_.matches(one)] == expected
        assert (page.position, page.end) == (5, True)
    with pytest.raises(SessionError, match="at most 64"):
        wanted(devices=["x"] * 65)


async def test_pages_are_bounded_by_records_and_bytes_and_leave_nothing_out(log: ResultLog) -> None:
    for sequence in range(1, 21):
        filler = 30_000 if sequence % 5 == 0 else 10
        await log.complete(await take(log, sequence), outcome("cat", filler=filler))
    for limit, max_bytes in ((3, 10**9), (100, 40_000), (100, 1)):
        seen: list[int] = []
        position, end = 0, False
        while not end:
            page = await log.read(wanted(class_names=["cat"]), position, limit, max_bytes)
            assert 0 < len(page.records) <= limit or page.end
            size = sum(len(one.outcome) for one in page.records)
            assert size <= max_bytes or len(page.records) == 1
            seen += [one.sequence for one in page.records]
            position, end = page.position, page.end
        assert seen == list(range(1, 21))

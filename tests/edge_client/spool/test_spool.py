"""What a spool keeps, in which order, what gives way when it is full, and how old things get."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.spool import Spool, SpoolLimits, SpoolPolicy
from edge_client.spool.clock import SpoolClock, Uptime
from edge_client.spool.room import cut, next_cut
from shared.bitstream import FORMAT_VERSIONS
from shared.errors import SpoolError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.features import features_message, header_of, parse_features
from tests.support.frames import frame, layered


class Machine:
    """An uptime that a test sets."""

    def __init__(self) -> None:
        self.boot, self.seconds = "first", 100.0

    def __call__(self) -> Uptime:
        return Uptime(self.boot, self.seconds)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool.open(tmp_path / "spool") as spool:
        yield spool


def sequences(spool: Spool) -> list[int]:
    return list(spool.queued())


def test_frames_come_out_in_order_and_leave_when_they_are_acknowledged(spool: Spool) -> None:
    for number in range(5):
        assert spool.put(frame(layered([10])), source=f"photo {number}") == number + 1
    seen, after = [], 0
    while (queued := spool.next_after(after)) is not None:
        after = queued.sequence
        seen.append((queued.sequence, queued.message.sequence, queued.source))
    assert seen == [(n, n, f"photo {n - 1}") for n in range(1, 6)]
    assert spool.acknowledge(3)
    assert not spool.acknowledge(3)
    assert not spool.acknowledge(77)
    assert sequences(spool) == [1, 2, 4, 5]
    assert spool.acknowledge_through(4) == [1, 2, 4]
    assert list(spool.awaited()) == [1, 2, 3, 4]
    assert spool.stats().frames == 1


def test_session_sequence_and_settings_outlive_the_process(tmp_path: Path) -> None:
    with Spool.open(tmp_path, SpoolLimits(max_bytes=1234, policy=SpoolPolicy.NEWEST)) as spool:
        session = spool.session
        spool.put(frame(layered([10])))
        spool.put(frame(layered([10])))
        spool.acknowledge_through(2)
        spool.finish(1, 1)
        spool.finish(2, 3)
        spool.keep("tasks", ["detection"])
    with Spool.open(tmp_path) as spool:
        assert spool.session == session
        assert spool.put(frame(layered([10]))) == 3
        assert spool.last_result_seen == 1, "result 2 is not here yet"
        assert spool.setting("tasks") == ["detection"]
        assert spool.stats().counts["put"] == 3
        with pytest.raises(SpoolError, match="1234"):
            spool.put(frame(layered([2000])))


def test_a_result_is_finished_once(spool: Spool) -> None:
    spool.put(frame(layered([10])))
    spool.acknowledge(1)
    assert spool.finish(1, 1)
    assert not spool.finish(1, 1)
    assert spool.stats().awaited == 0


@given(st.permutations(range(1, 9)))
def test_the_mark_of_seen_results_has_no_gap_below_it(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    with Spool.open(tmp_path_factory.mktemp("spool")) as spool:
        seen: set[int] = set()
        for result_id in order:
            spool.note_result(result_id)
            seen.add(result_id)
            gap = next(n for n in range(1, 10) if n not in seen)
            assert spool.last_result_seen == gap - 1


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Spool.open(tmp_path), pytest.raises(SpoolError) as caught:
        Spool.open(tmp_path)
    assert caught.value.reason == "in_use"
    Spool.open(tmp_path).close()


# -- full ----------------------------------------------------------------------------------------


def test_oldest_drops_the_oldest_and_spares_what_is_on_its_way(tmp_path: Path) -> None:
    with Spool.open(tmp_path, SpoolLimits(1000, policy=SpoolPolicy.OLDEST)) as spool:
        for _ in range(3):
            spool.put(frame(layered([280])))
        assert spool.take(1) is not None
        spool.put(frame(layered([280])))
        assert sequences(spool) == [1, 3, 4]
        (dropped,) = spool.take_dropped()
        assert (dropped.sequence, dropped.error.reason) == (2, "dropped_full")
        assert spool.take_dropped() == []
        assert spool.stats().counts["dropped_full"] == 1
        assert spool.stats().payload_bytes <= 1000
        with pytest.raises(SpoolError) as caught:
            spool.put(frame(layered([2000])))
        assert caught.value.reason == "frame_too_large"
        assert sequences(spool) == [1, 3, 4]


def test_newest_refuses_the_new_one_and_does_not_use_its_number(tmp_path: Path) -> None:
    with Spool.open(tmp_path, SpoolLimits(1000, policy=SpoolPolicy.NEWEST)) as spool:
        for _ in range(3):
            spool.put(frame(layered([280])))
        with pytest.raises(SpoolError) as caught:
            spool.put(frame(layered([280])))
        assert caught.value.reason == "spool_full"
        assert spool.stats().counts["refused_full"] == 1
        spool.acknowledge(1)
        assert spool.put(frame(layered([280]))) == 4


def test_coarsen_cuts_the_finest_layers_before_it_drops_anything(tmp_path: Path) -> None:
    whole = layered([50, 100, 200])
    with Spool.open(tmp_path, SpoolLimits(2000, policy=SpoolPolicy.COARSEN)) as spool:
        for _ in range(15):
            spool.put(frame(whole))
        assert sequences(spool) == list(range(1, 16))
        assert spool.take_dropped() == []
        states = []
        for sequence in sequences(spool):
            queued = spool.take(sequence)
            assert queued is not None
            (features,) = queued.message.features
            found = parse_features(features)
            states.append(found.state)
            assert found == whole.truncate(found.state)
        assert max(states) - min(states) <= 1, "all give way together"
        assert max(states) > 0
        assert spool.stats().counts["coarsened"] >= 15
        assert spool.stats().payload_bytes <= 2000


def test_coarsen_drops_the_oldest_when_nothing_is_left_to_cut(tmp_path: Path) -> None:
    with Spool.open(tmp_path, SpoolLimits(1000, policy=SpoolPolicy.COARSEN)) as spool:
        for _ in range(5):
            spool.put(frame(layered([280])))  # a single state: nothing to cut
        assert sequences(spool) == [3, 4, 5]
        assert spool.stats().counts == {"put": 5, "dropped_full": 2}


def test_coarsen_leaves_what_may_have_reached_the_server_as_it_was(tmp_path: Path) -> None:
    with Spool.open(tmp_path, SpoolLimits(1000, policy=SpoolPolicy.COARSEN)) as spool:
        spool.put(frame(layered([50, 300])))
        sent = spool.take(1)
        assert sent is not None
        for _ in range(4):
            spool.put(frame(layered([50, 300])))
        again = spool.take(1)
        assert again is not None
        assert again.message == sent.message


def coarser(whole: ingest_pb2.Frame) -> ingest_pb2.Frame | None:
    less = ingest_pb2.Frame()
    less.CopyFrom(whole)
    where = next_cut(less)
    if where is None:
        return None
    assert cut(less, *where, following=False)
    return less


def test_of_several_descriptions_the_largest_is_cut() -> None:
    other = replace(layered([10, 20]), bundle_id=b"another.")
    less = coarser(frame(layered([10, 500]), other))
    assert less is not None
    assert [header_of(features).state for features in less.features] == [1, 0]
    less = coarser(less)
    assert less is not None
    assert less.features[1] == features_message(other.truncate(1))
    assert coarser(less) is None


@given(
    sizes=st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=4), min_size=1, max_size=25),
    policy=st.sampled_from(SpoolPolicy),
    limit=st.integers(300, 3000),
)
def test_a_spool_never_exceeds_its_bytes_and_accounts_for_every_frame(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[list[int]],
    policy: SpoolPolicy,
    limit: int,
) -> None:
    with Spool.open(tmp_path_factory.mktemp("spool"), SpoolLimits(limit, policy=policy)) as spool:
        refused = 0
        for one in sizes:
            try:
                spool.put(frame(layered(one)))
            except SpoolError:
                refused += 1
            assert spool.stats().payload_bytes <= limit
        dropped = len(spool.take_dropped())
        assert spool.stats().frames + dropped + refused == len(sizes)
        assert sequences(spool) == sorted(sequences(spool))


# -- age -----------------------------------------------------------------------------------------


def test_age_is_the_time_that_the_device_ran(tmp_path: Path) -> None:
    machine = Machine()
    limits = SpoolLimits(max_age_s=60)
    with Spool.open(tmp_path, limits, uptime=machine) as spool:
        spool.put(frame(layered([10])))
        machine.seconds += 40
        spool.put(frame(layered([10])))
    machine.boot, machine.seconds = "second", 3.0  # switched off, for nobody knows how long
    with Spool.open(tmp_path, limits, uptime=machine) as spool:
        spool.expire()
        assert sequences(spool) == [1, 2]
        assert spool.stats().oldest_age_s == pytest.approx(40)
        machine.seconds += 21
        spool.expire()
        assert sequences(spool) == [2]
        (dropped,) = spool.take_dropped()
        assert dropped.error.reason == "dropped_age"
        assert spool.stats().counts["dropped_age"] == 1


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(-1e9, 1e9)), max_size=30))
def test_the_spools_clock_never_goes_back(jumps: list[tuple[str, float]]) -> None:
    machine = Machine()
    clock, shown = SpoolClock(machine), 0.0
    for boot, seconds in jumps:
        machine.boot, machine.seconds = boot, seconds
        assert clock.now() >= shown
        shown = clock.now()
        saved, at = clock.now(), clock.uptime()
        clock = SpoolClock(machine, saved, at)
        assert clock.now() >= shown


# -- numbering -----------------------------------------------------------------------------------


def test_renew_numbers_the_frames_again_in_a_new_session(spool: Spool) -> None:
    session = spool.session
    for number in range(1, 5):
        spool.put(frame(layered([10])), source=str(number))
    spool.acknowledge(2)
    assert spool.renew() != session
    assert spool.queued() == {1: "1", 2: "3", 3: "4"}
    queued = spool.next_after(2)
    assert queued is not None
    assert queued.message.sequence == 3
    assert spool.awaited() == {}
    assert spool.put(frame(layered([10]))) == 4


@pytest.mark.parametrize("version", FORMAT_VERSIONS)
def test_coarsen_cuts_frames_of_every_format_and_leaves_damage_to_the_server(
    version: int,
) -> None:
    whole = replace(layered([10, 20, 30]), version=version)
    less = coarser(frame(whole))
    assert less is not None
    assert parse_features(less.features[0]) == whole.truncate(1)
    damaged = frame(whole)
    if version == 3:
        damaged.features[0].layers[0].crc32c ^= 1
    else:
        damaged.features[0].container = damaged.features[0].container[:-1]
    assert coarser(damaged) is None


@pytest.mark.parametrize("bad", [{"max_bytes": 0}, {"max_age_s": 0.0}, {"max_age_s": float("nan")}])
def test_limits_that_are_none_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(SpoolError):
        SpoolLimits(**bad)  # type: ignore[arg-type]


def test_a_spool_has_one_device_which_outlives_damage(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        assert spool.device is None
        assert spool.claim(None, "host") == "host"
        assert spool.claim(None, "other-host") == "host"
        assert spool.claim("host", "other-host") == "host"
        with pytest.raises(SpoolError) as refused:
            spool.claim("cam", "host")
        assert refused.value.reason == "other_device"
        spool.put(frame(layered([10])))
        session = spool.session
        spool.rename("cam")
        assert (spool.device, spool.session == session) == ("cam", False)
        assert sequences(spool) == [1]
        spool.take(1)
        with pytest.raises(SpoolError) as under_way:
            spool.rename("host")
        assert under_way.value.reason == "frames_under_way"
    with Spool.open(tmp_path) as spool:
        assert spool.claim(None, "host") == "cam"
        (tmp_path / "spool.sqlite3").write_bytes(b"damaged" * 4096)
        with suppress(SpoolError):
            spool.put(frame(layered([10])))
        assert spool.device == "cam"


def test_a_spool_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        for _ in range(3):
            spool.put(frame(layered([10])), source="p")
        spool.acknowledge(1)
    with closing(sqlite3.connect(tmp_path / "spool.sqlite3")) as file:
        for table in ("frames", "awaited"):
            file.execute(f"ALTER TABLE {table} DROP COLUMN captured_us")
        file.execute("DROP INDEX frames_of_groups")
        file.execute("DROP TABLE kept")
        for column in ("first", "grows"):
            file.execute(f"ALTER TABLE frames DROP COLUMN {column}")
        file.execute("DELETE FROM meta WHERE key = 'device'")
        file.execute("PRAGMA user_version = 1")
        file.commit()
    message = frame(layered([10]))
    message.captured_at.FromMicroseconds(1_700_000_000_250_000)
    with Spool.open(tmp_path) as spool:
        assert (list(spool.awaited()), sequences(spool)) == ([1], [2, 3])
        assert spool.captured() == {}
        assert spool.claim(None, "host") == "host"
        assert spool.acknowledge(2)
        assert spool.acknowledge(spool.put(message))
        assert spool.captured() == {4: 1_700_000_000.25}
    with Spool.open(tmp_path) as spool:
        assert list(spool.awaited()) == [1, 2, 4]
        assert spool.captured() == {4: 1_700_000_000.25}

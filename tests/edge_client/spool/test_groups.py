"""Groups of pictures in a spool: nothing is kept whose reference is gone, or is too coarse."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from edge_client.spool import Spool, SpoolLimits, SpoolPolicy
from edge_client.spool.clock import Uptime
from shared.bitstream import Bitstream, Reference
from shared.errors import SpoolError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.features import features_message, parse_features
from tests.support.frames import frame, layered

SIZES = [40, 60, 90]


def predicted(sizes: list[int] = SIZES) -> ingest_pb2.Frame:
    return frame(replace(layered(sizes), reference=Reference(1, b"sums")))


def alone(sizes: list[int] = SIZES) -> ingest_pb2.Frame:
    return frame(layered(sizes))


def held(spool: Spool) -> dict[int, Bitstream]:
    found: dict[int, Bitstream] = {}
    while (queued := spool.next_after(max(found, default=0))) is not None:
        found[queued.sequence] = parse_features(queued.message.features[0])
    return found


def check(made: Mapping[int, int], held: Mapping[int, Bitstream], gone: set[int]) -> None:
    """made: the states at which frames were put: that is as what others know them. gone: with
    the server."""
    for sequence, bitstream in held.items():
        if bitstream.reference is None:
            continue
        before = sequence - bitstream.reference.distance
        assert before in held or before in gone, "what it refers to is here, or was delivered"
        if before in held and held[before].state > made[before]:
            assert bitstream.state >= held[before].state, "as coarse as what it looks at"


@pytest.mark.parametrize("policy", [SpoolPolicy.OLDEST, SpoolPolicy.COARSEN])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_gives_way_every_frame_has_its_reference(
    tmp_path: Path, policy: SpoolPolicy, seed: int
) -> None:
    rng = random.Random(seed)
    made: dict[int, int] = {}
    delivered: set[int] = set()
    with Spool.open(tmp_path, SpoolLimits(6000, policy=policy)) as spool:
        dropped: set[int] = set()
        for _ in range(150):
            whole = layered([rng.randint(10, 120) for _ in range(4)])
            picture = whole.truncate(rng.randint(0, 3))
            _, reached = spool.newest
            stands = reached is None or spool.wants_key_frame or rng.random() < 0.1
            reference = None if stands else Reference(1, b"sums")
            sequence = spool.put(frame(replace(picture, reference=reference)), grows=True)
            made[sequence] = held(spool)[sequence].state
            if rng.random() < 0.1 and (queued := spool.next_after(0)):
                assert spool.take(queued.sequence)
                if rng.random() < 0.7:
                    spool.acknowledge(queued.sequence)
                    delivered.add(queued.sequence)
            dropped |= {one.sequence for one in spool.take_dropped()}
            check(made, held(spool), delivered)
            assert spool.stats().payload_bytes <= 6000
        assert set(made) == set(spool.queued()) | delivered | dropped


def test_the_oldest_group_loses_its_last_frames_first(tmp_path: Path) -> None:
    with Spool.open(tmp_path, SpoolLimits(1400, policy=SpoolPolicy.OLDEST)) as spool:
        for group in range(2):
            for number in range(3):
                spool.put(predicted() if number else alone(), grows=True, source=str(group))
        assert list(spool.queued()) == [1, 2, 3, 4, 5, 6]
        spool.put(alone(), grows=True)
        spool.put(predicted(), grows=True)
        assert list(spool.queued()) == [1, 4, 5, 6, 7, 8]
        assert {one.error.reason for one in spool.take_dropped()} == {"dropped_full"}


def test_a_whole_group_becomes_coarser_from_where_it_was_not_sent(tmp_path: Path) -> None:
    with Spool.open(tmp_path, SpoolLimits(1700, policy=SpoolPolicy.COARSEN)) as spool:
        for number in range(5):
            spool.put(predicted() if number else alone(), grows=True)
        assert spool.take(1) is not None
        for _ in range(3):
            spool.put(predicted(), grows=True)
        states = [bitstream.state for bitstream in held(spool).values()]
        assert states == [0] + [1] * 4 + states[5:], "from the first that was not sent"
        assert spool.stats().counts["coarsened"] >= 4
        sequence, reached = spool.newest
        assert reached == {layered(SIZES).bundle_id: (states[-1], 0)}
        assert sequence == 8


def test_the_next_process_begins_with_a_key_frame(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        spool.put(alone(), grows=True)
        spool.put(predicted(), grows=True)
    with Spool.open(tmp_path) as spool:
        assert spool.newest == (2, None)
        assert spool.wants_key_frame
        with pytest.raises(SpoolError) as refused:
            spool.put(predicted(), grows=True)
        assert refused.value.reason == "needs_key_frame"
        assert spool.put(alone(), grows=True) == 3


def test_what_a_frame_is_decoded_with_is_kept_until_its_group_is_delivered(
    tmp_path: Path,
) -> None:
    def kept() -> int:
        with closing(sqlite3.connect(tmp_path / "spool.sqlite3")) as file:
            ((count,),) = file.execute("SELECT COUNT(*) FROM kept")
            return int(count)

    with Spool.open(tmp_path) as spool:
        for number in range(4):
            spool.put(predicted() if number else alone(), grows=True)
        spool.acknowledge_through(2)
        assert [one.sequence for one in spool.chain(3)] == [1, 2, 3]
        spool.finish(3)  # the server refuses it
    with Spool.open(tmp_path) as spool:
        assert [one.sequence for one in spool.chain(4)] == [1, 2, 3, 4]
        spool.put(alone(), grows=True)
        assert kept() == 3
        spool.acknowledge(4)
        assert kept() == 0
        spool.acknowledge(5)
        assert kept() == 1, "the next one may refer to it"
        spool.put(alone())
        assert kept() == 0
        spool.acknowledge(6)
        assert kept() == 0


def test_a_frame_that_is_too_old_takes_with_it_what_refers_to_it(tmp_path: Path) -> None:
    machine = [100.0]
    limits = SpoolLimits(max_age_s=80.0)
    with Spool.open(tmp_path, limits, uptime=lambda: Uptime("boot", machine[0])) as spool:
        spool.put(alone(), grows=True)
        assert not spool.wants_key_frame
        machine[0] += 20
        assert spool.wants_key_frame, "a group takes an eighth of the time at most"
        spool.put(predicted(), grows=True)
        spool.put(alone(), grows=True)
        machine[0] += 70
        spool.expire()
        assert list(spool.queued()) == [3]
        assert [one.sequence for one in spool.take_dropped()] == [1, 2]


def test_a_damaged_frame_takes_with_it_what_refers_to_it(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        for number in range(4):
            spool.put(alone() if number in (0, 3) else predicted(), grows=True)
    with closing(sqlite3.connect(tmp_path / "spool.sqlite3")) as file, file:
        file.execute("UPDATE frames SET message = x'ff' WHERE sequence = 2")
    with Spool.open(tmp_path) as spool:
        assert spool.chain(3) == []
        assert list(held(spool)) == [1, 4]
        assert [one.sequence for one in spool.take_dropped()] == [2, 3]


def test_references_follow_their_frames_when_these_are_numbered_again(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        for number in range(6):
            spool.put(alone() if number in (0, 4) else predicted(), grows=True)
        spool.acknowledge_through(2)
        spool.renew()
        assert list(spool.queued()) == [1, 2, 3, 4]
        assert [held(spool)[n].reference for n in (1, 2, 3, 4)] == [
            Reference(1, b"sums"), Reference(1, b"sums"), None, Reference(1, b"sums"),
        ]  # fmt: skip
        assert [len(spool.chain(n)) for n in (1, 2, 3, 4)] == [3, 4, 1, 2]
        assert spool.newest == (4, None)


def test_a_spool_of_an_older_release_is_read(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        spool.put(alone(), source="old")
    with closing(sqlite3.connect(tmp_path / "spool.sqlite3")) as file, file:
        file.executescript(
            "DROP INDEX frames_of_groups; DROP TABLE kept; ALTER TABLE frames DROP COLUMN first;"
            "ALTER TABLE frames DROP COLUMN grows; PRAGMA user_version = 2"
        )
    with Spool.open(tmp_path) as spool:
        spool.put(alone(), grows=True, source="new")
        spool.acknowledge(1)
        assert spool.queued() == {2: "new"}
        assert len(spool.chain(2)) == 1


def test_a_group_larger_than_the_spool_is_refused_but_not_a_key_frame(tmp_path: Path) -> None:
    with Spool.open(tmp_path, SpoolLimits(500, policy=SpoolPolicy.OLDEST)) as spool:
        spool.put(alone(), grows=True)
        spool.put(predicted([100]), grows=True)
        with pytest.raises(SpoolError) as refused:
            spool.put(predicted(), grows=True)
        assert refused.value.reason == "needs_key_frame"
        assert list(spool.queued()) == [1, 2]
        with suppress(SpoolError):
            spool.put(alone(), grows=True)
        assert list(spool.queued()) == [1, 3]
    assert features_message(layered(SIZES)) == alone().features[0]

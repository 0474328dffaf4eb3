"""Predicted frames through a spool: whatever server comes, it decodes every one of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from codec.base import Pixels
from edge_client import EdgeSession
from edge_client.session import KeyEvery
from edge_client.session.results import Reply
from edge_client.session.spooled.unanswered import Unanswered
from edge_client.spool import Spool, SpoolLimits, SpoolPolicy
from shared.bundle import Bundle
from shared.errors import BitstreamError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import FrameOutcome
from tests.support.predicted import (
    Decoder,
    Responses,
    decoding_server,
    greet,
    outcome_of,
    predicting_bundle,
    scene,
)
from tests.support.proxy import Proxy
from tests.support.scripted_server import Requests, ScriptedServer, answer, say

NOWHERE = "127.0.0.1:9"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return predicting_bundle(tmp_path_factory.mktemp("null"))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool.open(tmp_path / "spool") as spool:
        yield spool


def put_offline(spool: Spool, bundle: Bundle, pictures: Iterator[Pixels]) -> None:
    """No server is there; what was spooled stays."""
    with EdgeSession(NOWHERE, bundle=bundle, spool=spool, connect_timeout_s=0.1) as session:
        results = list(session.stream(pictures))
    assert {result.error and result.error.reason for result in results} == {"spooled"}


def flush(address: str, bundle: Bundle, spool: Spool) -> list[str]:
    with EdgeSession(address, bundle=bundle, spool=spool) as session:
        return [result.error.reason for result in session.flush() if result.error]


def check_pictures(decoder: Decoder, bundle: Bundle, pictures: Iterator[Pixels]) -> None:
    for sequence, picture in enumerate(pictures, 1):
        away = np.abs(decoder.photo(sequence, bundle).astype(int) - picture)
        assert away.mean() < 16, f"frame {sequence} is the right picture"


def test_a_spool_carries_groups(bundle: Bundle, spool: Spool) -> None:
    decoder = Decoder(bundle)
    with (
        decoding_server(decoder) as server,
        EdgeSession(
            server.address, bundle=bundle, spool=spool, key_every=KeyEvery(frames=5)
        ) as session,
    ):
        results = list(session.stream(scene(12)))
    assert len(results) == 12
    assert decoder.keys == [1, 6, 11]
    check_pictures(decoder, bundle, scene(12))


@pytest.mark.parametrize("takes_predicted", [True, False])
def test_what_was_spooled_before_there_was_a_server(
    bundle: Bundle, spool: Spool, takes_predicted: bool
) -> None:
    put_offline(spool, bundle, scene(6))
    decoder = Decoder(bundle)
    with decoding_server(decoder, takes_predicted=takes_predicted) as server:
        assert flush(server.address, bundle, spool) == ["decoded"] * 6
    assert decoder.keys == ([1] if takes_predicted else [1, 2, 3, 4, 5, 6])
    check_pictures(decoder, bundle, scene(6))


def test_the_next_process_begins_a_group_and_the_spooled_one_goes_as_it_is(
    bundle: Bundle, tmp_path: Path
) -> None:
    decoder = Decoder(bundle)
    with Spool.open(tmp_path) as spool:
        put_offline(spool, bundle, scene(4))
    with (
        Spool.open(tmp_path) as spool,
        decoding_server(decoder) as server,
        EdgeSession(server.address, bundle=bundle, spool=spool) as session,
    ):
        assert len(list(session.stream(scene(3, first=4)))) == 7
    assert decoder.keys == [1, 5]
    check_pictures(decoder, bundle, scene(7))


@pytest.mark.parametrize("lost", ["nothing", "values", "session"])
def test_frames_under_way_on_a_broken_stream_are_decoded_by_the_next_server(
    bundle: Bundle, spool: Spool, lost: str
) -> None:
    """The first stream acknowledges three frames and ends. The second server has all that the first
    one had, or has lost the values, or the whole session."""
    first, second = Decoder(bundle), Decoder(bundle)

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        decoder = first if number == 1 else second
        accepted = 0 if number == 1 or lost == "session" else 3
        needs_key = number == 2 and lost == "values"
        if lost == "nothing":
            second.values.update(first.values)
        yield greet(hello, resume_after_sequence=accepted, needs_key_frame=needs_key)
        for request in requests:
            if request.WhichOneof("message") == "frame":
                frame = request.frame
                yield from answer(frame, frame.sequence, outcome_of(decoder, frame))
                if number == 1 and frame.sequence == 3:
                    return

    with (
        ScriptedServer(script) as server,
        EdgeSession(server.address, bundle=bundle, spool=spool) as session,
    ):
        results = list(session.stream(scene(9)))
    assert {result.error and result.error.reason for result in results} == {"decoded"}
    assert sorted(result.sequence for result in results) == list(range(1, 10))
    assert (first.keys, first.predicted) == ([1], [2, 3])
    assert second.keys == ([] if lost == "nothing" else [4])
    assert second.keys + second.predicted == [4, 5, 6, 7, 8, 9]
    first.values.update(second.values)
    check_pictures(first, bundle, scene(9))


def test_a_frame_that_a_server_could_not_take_goes_again_as_a_key_frame(
    bundle: Bundle, spool: Spool
) -> None:
    decoder = Decoder(bundle)
    refused: list[int] = []

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        accepted = max((at for at, _ in decoder.values), default=0)
        yield greet(hello, resume_after_sequence=accepted, credits=1)
        for request in requests:
            if request.WhichOneof("message") != "frame":
                continue
            frame = request.frame
            if frame.sequence == 4 and number == 1:
                refused.append(4)
                error = BitstreamError("reference_lost", "made up")
                _, result, credit = answer(frame, 0, FrameOutcome(error=error))
                yield result  # not acknowledged, no number: not taken
                yield credit
                continue
            yield from answer(frame, frame.sequence, outcome_of(decoder, frame))

    with (
        ScriptedServer(script) as server,
        EdgeSession(server.address, bundle=bundle, spool=spool) as session,
    ):
        results = list(session.stream(scene(8)))
    assert refused == [4]
    assert {result.error and result.error.reason for result in results} == {"decoded"}
    assert decoder.keys[:2] == [1, 4]
    check_pictures(decoder, bundle, scene(8))


def test_after_a_result_that_says_lost_what_is_spooled_does_not_fail_too(
    bundle: Bundle, spool: Spool
) -> None:
    put_offline(spool, bundle, scene(8))
    decoder = Decoder(bundle)

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        yield greet(hello, credits=1)
        for request in requests:
            if request.WhichOneof("message") == "frame":
                frame = request.frame
                outcome = outcome_of(decoder, frame)
                if frame.sequence == 2:
                    decoder.values.clear()
                yield from answer(frame, frame.sequence, outcome)

    with ScriptedServer(script) as server:
        reasons = flush(server.address, bundle, spool)
    assert sorted(reasons) == ["decoded"] * 7 + ["reference_lost"]
    assert decoder.keys == [1, 4]


def test_a_server_that_knows_more_gets_a_new_session_with_all_that_is_left(
    bundle: Bundle, spool: Spool
) -> None:
    put_offline(spool, bundle, scene(5))
    spool.acknowledge_through(2)
    decoder = Decoder(bundle)

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        yield greet(hello, resume_after_sequence=77 if number == 1 else 0)
        for request in requests:
            if request.WhichOneof("message") == "frame":
                frame = request.frame
                yield from answer(frame, frame.sequence, outcome_of(decoder, frame))

    with ScriptedServer(script) as server:
        reasons = flush(server.address, bundle, spool)
    assert reasons.count("decoded") == 3
    assert (decoder.keys, decoder.predicted) == ([1], [2, 3])
    check_pictures(decoder, bundle, scene(3, first=2))


def test_a_result_under_an_old_number_ticks_its_own_frame_off(bundle: Bundle, spool: Spool) -> None:
    """It came before the frames were numbered again, and is handed over after that."""
    put_offline(spool, bundle, scene(6))
    for sequence in (1, 2, 3):
        spool.finish(sequence)
    answers = Unanswered(spool, threading.Condition(), lambda error: None)
    outcome = FrameOutcome(error=BitstreamError("decoded", "it was decoded"))
    answers.answered(Reply(outcome, 4, 0, 1.0, result_id=9))
    found = answers.take()
    answers.renumber()
    assert found is not None
    assert list(spool.queued()) == [1, 2, 3], "4 to 6 until now"
    answers.handed(found)
    assert list(spool.queued()) == [2, 3]
    assert spool.last_result_seen == 0


def test_a_full_spool_keeps_what_can_be_decoded(bundle: Bundle, tmp_path: Path) -> None:
    limits = SpoolLimits(16_000, policy=SpoolPolicy.OLDEST)
    decoder = Decoder(bundle)
    with Spool.open(tmp_path, limits) as spool:
        with EdgeSession(NOWHERE, bundle=bundle, spool=spool, connect_timeout_s=0.1) as session:
            results = list(session.stream(scene(60)))
        reasons = {result.error.reason for result in results if result.error}
        assert reasons == {"spooled", "dropped_full"}
        left = list(spool.queued())
        with decoding_server(decoder) as server:
            assert flush(server.address, bundle, spool) == ["decoded"] * len(left)
    assert sorted(decoder.keys + decoder.predicted) == left
    assert 60 in left
    assert len(decoder.predicted) > len(left) / 2


def test_a_killed_stream_in_a_bad_network_loses_no_picture(bundle: Bundle, spool: Spool) -> None:
    decoder = Decoder(bundle)

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        accepted = max((at for at, _ in decoder.values), default=0)
        yield greet(hello, resume_after_sequence=accepted)
        for request in requests:
            if request.WhichOneof("message") == "frame":
                frame = request.frame
                outcome = outcome_of(decoder, frame)
                yield from answer(frame, frame.sequence, outcome)
            elif request.WhichOneof("message") == "heartbeat":
                request.heartbeat.reply = True
                yield say(heartbeat=request.heartbeat)

    with (
        ScriptedServer(script) as server,
        Proxy(server.address) as proxy,
        EdgeSession(proxy.address, bundle=bundle, spool=spool) as session,
    ):
        results = []
        for result in session.stream(scene(40)):
            results.append(result)
            if len(results) in (10, 20):
                proxy.cut()
    assert sorted({result.sequence for result in results}) == list(range(1, 41))
    assert len(results) == 40
    check_pictures(decoder, bundle, scene(40))

"""Groups of pictures: what a frame of a session refers to, and when it stands alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from codec.base import open_edge
from edge_client import EdgeSession
from edge_client.encoder import EdgeEncoder
from edge_client.session import KeyEvery
from edge_client.session.groups import Groups
from edge_client.session.refinement_store import Part
from shared.bundle import Bundle
from shared.errors import BitstreamError, BudgetError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.targets import RateTarget
from tests.support.predicted import (
    Decoder,
    Responses,
    decoding_server,
    greet,
    outcome_of,
    predicting_bundle,
    scene,
)
from tests.support.scripted_server import Requests, ScriptedServer, answer, say


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return predicting_bundle(tmp_path_factory.mktemp("null"))


def streamed(bundle: Bundle, count: int, **options: Any) -> tuple[Decoder, EdgeSession]:
    decoder = Decoder(bundle)
    with (
        decoding_server(decoder) as server,
        EdgeSession(server.address, bundle=bundle, **options) as session,
    ):
        results = list(session.stream(scene(count)))
    assert [result.error and result.error.reason for result in results] == ["decoded"] * count
    return decoder, session


def test_frames_refer_to_the_one_before_until_a_key_frame_is_due(bundle: Bundle) -> None:
    decoder, session = streamed(bundle, 10, key_every=KeyEvery(frames=4))
    assert decoder.keys == [1, 5, 9]
    assert decoder.predicted == [2, 3, 4, 6, 7, 8, 10]
    assert (session.groups.key_frames, session.groups.predicted_frames) == (3, 7)
    for sequence, picture in enumerate(scene(10), 1):
        away = np.abs(decoder.photo(sequence, bundle).astype(int) - picture)
        assert away.mean() < 16, "the right picture, as well as its JPEG shows it"


def test_without_prediction_every_frame_stands_alone(bundle: Bundle) -> None:
    decoder, session = streamed(bundle, 4, predict=False)
    assert decoder.keys == [1, 2, 3, 4]
    assert (session.groups.key_frames, session.groups.predicted_frames) == (4, 0)


def test_a_server_that_does_not_take_them_gets_no_predicted_frames(bundle: Bundle) -> None:
    decoder = Decoder(bundle)
    with (
        decoding_server(decoder, takes_predicted=False) as server,
        EdgeSession(server.address, bundle=bundle) as session,
    ):
        list(session.stream(scene(3)))
        assert server.hellos[0].predicts
    assert decoder.keys == [1, 2, 3]


def test_seconds_and_frames_that_a_group_lasts() -> None:
    assert KeyEvery.parse("30") == KeyEvery(30)
    assert KeyEvery.parse("1.5s") == KeyEvery(None, 1.5)
    for text in ("", "0", "x", "1.5", "0s", "-3", "1e9s"):
        with pytest.raises(BudgetError):
            KeyEvery.parse(text)


def test_a_group_ends_after_its_seconds(bundle: Bundle) -> None:
    now = [0.0]
    groups = Groups(KeyEvery(None, 10.0), now_s=lambda: now[0])
    encoder, seen = EdgeEncoder(bundle), []
    for sequence, picture in enumerate(scene(6), 1):
        now[0] = 4.0 * sequence
        coding = groups.next_frame(sequence, predicts=True)
        reference = coding.reference(bundle.short_id)
        seen.append(reference is None)
        made = encoder.encode_frame(picture, RateTarget(), decoded=True, reference=reference)
        coding.made(encoder.codec, made.latents, made.sent)
        coding.sent([Part(made.sent, None)])
    assert seen == [True, False, False, True, False, False]


def test_a_command_makes_the_next_frame_a_key_frame(bundle: Bundle) -> None:
    decoder = Decoder(bundle)
    replies: list[fleet_pb2.CommandReply] = []

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        yield greet(hello)
        for request in requests:
            if request.WhichOneof("message") == "command_reply":
                replies.append(request.command_reply)
            if request.WhichOneof("message") != "frame":
                continue
            if request.frame.sequence == 3:
                command = fleet_pb2.Command(command_id="c", key_frame=fleet_pb2.KeyFrame())
                yield say(command=command)
            frame = request.frame
            yield from answer(frame, frame.sequence, outcome_of(decoder, frame))

    with (
        ScriptedServer(script) as server,
        EdgeSession(server.address, bundle=bundle) as session,
    ):
        list(session.stream(scene(6), window=1))
    assert decoder.keys == [1, 4]
    assert [(one.command_id, one.HasField("error")) for one in replies] == [("c", False)]


def test_a_lost_reference_begins_one_new_group_and_no_wrong_picture(bundle: Bundle) -> None:
    """The values of frame 4 are lost at the server: what refers to it has an error for a result."""
    decoder = Decoder(bundle)

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        yield greet(hello, credits=2)
        for request in requests:
            if request.WhichOneof("message") == "frame":
                frame = request.frame
                yield from answer(frame, frame.sequence, outcome_of(decoder, frame))
                if frame.sequence == 4:
                    decoder.values.clear()

    with (
        ScriptedServer(script) as server,
        EdgeSession(server.address, bundle=bundle) as session,
    ):
        results = list(session.stream(scene(12)))
    reasons = [result.error and result.error.reason for result in results]
    lost = reasons.count("reference_lost")
    assert 1 <= lost <= 3, "what was under way"
    assert reasons.count("decoded") == 12 - lost
    assert decoder.keys[0] == 1
    assert len(decoder.keys) == 2


def test_a_photo_that_cannot_be_encoded_leaves_the_group_as_it_is(bundle: Bundle) -> None:
    decoder = Decoder(bundle)

    def pictures() -> Iterator[Any]:
        yield from scene(2)
        yield b"no picture"
        yield from scene(2, first=2)

    with (
        decoding_server(decoder) as server,
        EdgeSession(server.address, bundle=bundle) as session,
    ):
        list(session.stream(pictures()))
    assert (decoder.keys, decoder.predicted) == ([1], [2, 3, 4])


def test_a_predicted_file_is_not_sent_without_what_it_refers_to(bundle: Bundle) -> None:
    codec = open_edge(bundle)
    first, second = scene(2)
    reference = codec.decode(codec.encode(first))
    predicted = codec.encode(second, reference=reference)
    assert predicted.reference is not None
    decoder = Decoder(bundle)
    with (
        decoding_server(decoder) as server,
        EdgeSession(server.address, bundle=bundle) as session,
        pytest.raises(BitstreamError, match="refers to"),
    ):
        session.send(predicted)

"""Predicted frames on the stream: accepted when they can be decoded, refused when not."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cloud_server.database import Database
from cloud_server.ingest import admission, references
from cloud_server.results.log import ResultLog
from codec.base import open_cloud, small_bundle
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream, Layer, Reference
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import ingest_pb2
from shared.results import TaskResult
from shared.wire import PictureRequest
from shared.wire.features import features_message, parse_features
from shared.wire.requests import Frame, Refine, frame_message, refine_message
from tests.support.memory_server import MemoryClient, MemoryServer
from tests.support.mutations import mutate
from tests.support.predicting import coded, moving
from tests.support.servers import FixedTask

WANTED = PictureRequest()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle("null", tmp_path_factory.mktemp("null"))


@pytest.fixture(scope="module")
def frames(bundle: Bundle) -> list[Bitstream]:
    return coded(bundle, moving(12), keys=(0, 8))


@pytest.fixture
def server(bundle: Bundle, tmp_path: Path) -> Iterator[MemoryServer]:
    server = MemoryServer(tmp_path, bundle)
    yield server
    server.close()


def greeted(server: MemoryServer, **hello: object) -> MemoryClient:
    client = server.client()
    client.hello(predicts=True, **hello)
    return client


def pictures_of(bundle: Bundle, frames: list[Bitstream]) -> list[NDArray[np.uint8]]:
    codec = open_cloud(bundle)
    latents, found = None, []
    for frame in frames:
        latents = codec.decode(frame, reference=latents)
        found.extend(codec.open_reconstructor().reconstruct([latents]))
    return found


def shown(result: ingest_pb2.Result) -> NDArray[np.uint8]:
    assert not result.outcome.HasField("error"), result.outcome.error
    return np.asarray(Image.open(io.BytesIO(result.outcome.picture.data)))


class Counted(FixedTask):
    """A task that counts the pictures it sees."""

    seen = 0

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        Counted.seen += len(images)
        return super().run(images)


def by_sequence(results: list[ingest_pb2.Result]) -> dict[int, ingest_pb2.Result]:
    return {one.sequence: one for one in results}


def test_predicted_frames_are_decoded_upon_the_one_before(
    server: MemoryServer, bundle: Bundle, frames: list[Bitstream]
) -> None:
    client = server.client()
    welcome = client.hello(predicts=True)
    assert welcome.takes_predicted
    assert welcome.needs_key_frame  # there is nothing to refer to
    for sequence, frame in enumerate(frames[:8], 1):
        client.frame(sequence, frame, picture=WANTED)
    found = by_sequence(client.wait_for("result", 8))
    for sequence, expected in enumerate(pictures_of(bundle, frames[:8]), 1):
        assert np.array_equal(shown(found[sequence]), expected)
    assert not client.all("command")


def test_what_refers_to_a_frame_that_never_came_is_refused_until_a_key_frame(
    server: MemoryServer, bundle: Bundle, frames: list[Bitstream]
) -> None:
    client = greeted(server)
    client.frame(1, frames[0])
    for sequence in (3, 4, 5):  # the second is lost on its way
        client.frame(sequence, frames[sequence - 1], picture=WANTED)
    results = [one for one in client.wait_for("result", 4) if one.sequence > 1]
    assert {one.outcome.error.reason for one in results} == {"reference_lost"}
    assert {one.result_id for one in results} == {0}  # nothing of them is kept
    (command,) = client.wait_for("command")
    assert command.HasField("key_frame")
    client.frame(5, frames[8])  # its sequence is free still
    client.frame(6, frames[9], picture=WANTED)
    last = by_sequence(client.wait_for("result", 6))[6]
    assert np.array_equal(shown(last), pictures_of(bundle, frames[8:10])[1])
    assert len(client.all("command")) == 1


def test_a_frame_predicted_from_other_values_is_refused(
    server: MemoryServer, frames: list[Bitstream]
) -> None:
    client = greeted(server)
    client.frame(1, frames[8])
    client.frame(2, frames[1])
    second = by_sequence(client.wait_for("result", 2))[2]
    assert second.outcome.error.reason == "reference_mismatch"
    assert client.wait_for("command")[0].HasField("key_frame")


def test_a_damaged_frame_takes_those_behind_it_with_it(
    server: MemoryServer, frames: list[Bitstream]
) -> None:
    client = greeted(server)
    client.frame(1, frames[0])
    client.frame(2, replace(frames[1], layers=(Layer(frames[1].state, b"junk"),)))
    client.frame(3, frames[2])
    client.frame(4, replace(frames[0], layers=(Layer(frames[0].state, b"no picture"),)))
    client.frame(5, replace(frames[1], reference=Reference(1, b"1234")))
    reasons = {
        sequence: one.outcome.error.reason
        for sequence, one in by_sequence(client.wait_for("result", 5)).items()
    }
    # A damaged key frame that nobody wants anything of is found when something refers to it.
    assert reasons == {1: "", 2: "bad_payload", 3: "reference_lost", 4: "", 5: "reference_lost"}


@pytest.mark.parametrize("distance", [0, 2, 7])
def test_a_reference_that_there_cannot_be(
    server: MemoryServer, frames: list[Bitstream], distance: int
) -> None:
    client = greeted(server)
    client.frame(2, replace(frames[1], reference=Reference(distance or 2**28 - 1, b"1234")))
    (result,) = client.wait_for("result")
    assert result.outcome.error.reason == "reference_lost"


def test_values_that_are_in_no_memory_are_rebuilt_from_the_log(
    bundle: Bundle, frames: list[Bitstream], tmp_path: Path
) -> None:
    server = MemoryServer(tmp_path, bundle)
    client = greeted(server)
    for sequence in range(1, 5):
        client.frame(sequence, frames[sequence - 1])
    client.wait_for("result", 4)
    server.close()
    # And the next server keeps nothing at all.
    server = MemoryServer(tmp_path, bundle, reference_bytes=0)
    try:
        client = server.client()
        assert not client.hello(predicts=True).needs_key_frame
        for sequence in range(4, 8):  # the fourth once more
            client.frame(sequence, frames[sequence - 1], picture=WANTED)
        assert client.wait_for("ack", 4)[0].duplicate
        client.wait_until(lambda: {5, 6, 7} <= by_sequence(client.all("result")).keys())
        found = by_sequence(client.all("result"))
        for sequence, expected in enumerate(pictures_of(bundle, frames[:7]), 1):
            if sequence > 4:
                assert np.array_equal(shown(found[sequence]), expected)
    finally:
        server.close()


@pytest.mark.parametrize("reuse", [True, False])
def test_a_still_scene_is_analysed_once(bundle: Bundle, tmp_path: Path, reuse: bool) -> None:
    frames = coded(bundle, moving(9, still=range(3, 8)))
    pictures = pictures_of(bundle, frames)
    still = [n for n in range(2, 10) if np.array_equal(pictures[n - 1], pictures[n - 2])]
    assert still[-3:] == [6, 7, 8]
    Counted.seen = 0
    server = MemoryServer(
        tmp_path, bundle, tasks={"counted": lambda: Counted("counted", 0.1)}, reuse_results=reuse
    )
    client = greeted(server)
    for sequence, frame in enumerate(frames, 1):
        client.wait_for_credits(sequence - 8)
        client.frame(sequence, frame, tasks=("counted",), picture=WANTED if sequence > 6 else None)
    found = by_sequence(client.wait_for("result", 9))
    server.close()
    since = {
        sequence: one.outcome.analysis.unchanged_since
        for sequence, one in found.items()
        if one.outcome.analysis.HasField("unchanged_since")
    }
    # Of the seventh a picture is wanted, and of those before it none.
    expected = {number: still[0] - 1 for number in still if number < 7} | {8: 7}
    assert since == (expected if reuse else {})
    assert Counted.seen == 9 - len(since)
    for sequence, frame in enumerate(frames, 1):
        analysis = found[sequence].outcome.analysis
        assert analysis.payload_bytes == frame.file_bytes
        assert len(analysis.tasks["counted"].detections) == 1
    assert np.array_equal(shown(found[8]), shown(found[7]))


def test_the_last_frames_alone_are_in_memory(server: MemoryServer, frames: list[Bitstream]) -> None:
    assert server.ingest.references.total_bytes == 0
    client = greeted(server)
    sizes = []
    for sequence, frame in enumerate(frames, 1):
        client.frame(sequence, frame)
        client.wait_for("result", sequence)
        sizes.append(server.ingest.references.total_bytes)
    assert sizes[7] > 4 * sizes[1]
    assert sizes[-1] < 1.2 * sizes[7]


def test_a_device_is_asked_for_a_key_frame_before_its_group_is_too_long(
    server: MemoryServer, frames: list[Bitstream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LONG_GROUP", 4)
    monkeypatch.setattr(references, "MAX_GROUP", 6)
    client = greeted(server)
    for sequence, frame in enumerate(frames[:8], 1):
        client.frame(sequence, frame)
        client.wait_for("result", sequence)
        assert len(client.all("command")) == (sequence >= 4)
    found = by_sequence(client.all("result"))
    failed = {n for n, one in found.items() if one.outcome.error.reason == "reference_lost"}
    assert failed == {7, 8}


def test_mutants_are_refused_or_are_what_they_say(
    server: MemoryServer, bundle: Bundle, frames: list[Bitstream]
) -> None:
    rng = random.Random("mutants")
    codec = open_cloud(bundle)
    reference = codec.decode(frames[0])
    client = greeted(server)
    reasons = set()
    for number in range(100):
        client.frame(2 * number + 1, frames[0])
        message = frame_message(Frame(2 * number + 2, (frames[1],)))
        features = message.features[0]
        if number % 2:
            features.container = mutate(features.container, rng)
        else:  # what a device would send that is itself confused: its checksums are right
            payload = mutate(frames[1].layers[0].payload, rng)
            layers = (Layer(frames[1].state, payload),)
            features.CopyFrom(features_message(replace(frames[1], layers=layers)))
        client.say(frame=message)
        client.wait_for("result", 2 * number + 2)
        outcome = by_sequence(client.all("result"))[2 * number + 2].outcome
        if outcome.HasField("error"):
            reasons.add(outcome.error.reason)
        else:
            codec.decode(parse_features(features), reference=reference)
    assert {"bad_payload", "crc_mismatch"} <= reasons
    assert "internal_error" not in reasons


def test_a_predicted_frame_can_be_refined_in_another_bundle(
    bundle: Bundle, tiny_bundle: Bundle, encoder: EdgeEncoder, tmp_path: Path
) -> None:
    photos = moving(3)
    frames = coded(bundle, photos)
    server = MemoryServer(tmp_path, bundle, tiny_bundle)
    client = greeted(server, also_bundle_ids=(tiny_bundle.id,))
    for sequence, frame in enumerate(frames, 1):
        client.frame(sequence, frame)
    layers = encoder.encode(photos[2]).layers
    refine = Refine(3, layers, picture=WANTED, bundle_id=tiny_bundle.short_id)
    client.wait_for("result", 3)
    client.say(refine=refine_message(refine))
    refined = client.wait_for("result", 4)[3]
    server.close()
    # The picture is that of the first bundle that makes one: the predicted frame's.
    assert np.array_equal(shown(refined), pictures_of(bundle, frames)[2])


def test_layers_that_look_at_more_than_there_is_are_refused_and_the_frame_stays(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """The frame before came coarser than the one that was coded upon it thinks."""
    first, second = coded(tiny_bundle, moving(2))
    coarsest = first.layers[0].state
    server = MemoryServer(tmp_path, tiny_bundle)
    client = greeted(server)
    for sequence, frame in enumerate((first, second), 1):
        client.frame(sequence, frame.truncate(coarsest), picture=WANTED)
    client.wait_for("result", 2)
    client.say(refine=refine_message(Refine(2, second.layers[1:], picture=WANTED)))
    refused = client.wait_for("result", 3)[2]
    assert (refused.outcome.error.reason, refused.result_id) == ("reference_mismatch", 0)
    # What refers to it, and what is stored, is as it was.
    client.say(refine=refine_message(Refine(1, first.layers[1:], picture=WANTED)))
    assert shown(client.wait_for("result", 4)[3]).shape == (96, 160, 3)
    server.close()
    log = ResultLog(Database(f"sqlite:///{tmp_path}/log.sqlite3"), window=2**16)
    messages = asyncio.run(log.frame_messages(("test-device", "test-session"), 2))
    log.database.close()
    assert len(messages) == 1

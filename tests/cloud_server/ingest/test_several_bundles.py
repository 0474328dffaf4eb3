"""A server of several bundles: frames of one of them, of another, and of both at once."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.engine.files import BitstreamDecoder
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from shared.bitstream import Layer
from shared.bundle import Bundle
from shared.errors import FeatherwireError, ModelError, SessionError
from shared.proto.featherwire.v1 import bundles_pb2, bundles_pb2_grpc, fleet_pb2, ingest_pb2
from shared.rpc.channel import open_channel
from shared.rpc.errors import error_from_call
from shared.wire import PictureRequest
from shared.wire.features import features_message
from shared.wire.requests import (
    Frame,
    Hello,
    Refine,
    frame_message,
    hello_message,
    refine_message,
)
from tests.support.memory_server import MemoryServer
from tests.support.mutations import mutate
from tests.support.pictures import same_picture
from tests.support.raw_client import Client, RawClient
from tests.support.servers import FixedTask, ServerThread

Start = Callable[..., ServerThread]


@pytest.fixture
def both(start_server: Start, feature_bundle: Bundle) -> ServerThread:
    """Pictures first, features beside them; two tasks on pictures, one of which a tail does too."""
    return start_server(
        {"calm": lambda: FixedTask("calm"), "detection": lambda: FixedTask("detection")},
        bundles=(feature_bundle.origin,),
    )


@pytest.fixture(scope="module")
def both_in_memory(
    tiny_bundle: Bundle, feature_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MemoryServer]:
    """As ``both``, without sockets."""
    tasks = {"calm": lambda: FixedTask("calm"), "detection": lambda: FixedTask("detection")}
    folder = tmp_path_factory.mktemp("both")
    server = MemoryServer(folder, tiny_bundle, feature_bundle, tasks=tasks)
    yield server
    server.close()


@pytest.fixture
def client(both_in_memory: MemoryServer) -> Client:
    client = both_in_memory.client()
    client.hello(session=uuid.uuid4().hex)
    return client


@pytest.fixture
def red() -> NDArray[np.uint8]:
    """uint8 96x160x3, all of it red."""
    return np.full((96, 160, 3), (250, 10, 10), np.uint8)


def models(result: Any, task: str = "detection") -> list[str]:
    return [model.name for model in result.tasks[task].model]


def test_features_alone_are_enough_for_their_task_and_for_no_other(
    both: ServerThread, feature_bundle: Bundle, red: NDArray[np.uint8]
) -> None:
    with EdgeSession(both.address, bundle=feature_bundle) as session:
        result = session.send(red, tasks=["detection", "calm", "none_such"], picture=True)
        plain = session.send(red)
    assert models(result) == ["blocks"]
    assert {found.class_name for found in result.tasks["detection"].detections or ()} == {"red"}
    assert result.task_errors["calm"].reason == "needs_picture"
    assert result.task_errors["none_such"].reason == "unknown_task"
    assert result.picture_error is not None
    assert result.picture_error.reason == "no_picture"
    assert set(plain.raise_for_error().tasks) == {"detection"}  # what features are enough for
    assert plain.analysis is not None
    assert plain.analysis.bundle_id == feature_bundle.id
    assert "reconstruct" not in plain.analysis.milliseconds


def test_a_picture_alone_runs_every_task_on_the_picture(
    both: ServerThread, encoder: EdgeEncoder, red: NDArray[np.uint8]
) -> None:
    with EdgeSession(both.address, encoder=encoder) as session:
        result = session.send(red, state=4).raise_for_error()
    assert models(result) == ["detection-model"]
    assert models(result, "calm") == ["calm-model"]


def test_a_task_that_only_tails_do_is_not_asked_of_a_picture(
    start_server: Start, feature_bundle: Bundle, encoder: EdgeEncoder, red: NDArray[np.uint8]
) -> None:
    server = start_server({"calm": lambda: FixedTask("calm")}, bundles=(feature_bundle.origin,))
    with EdgeSession(server.address, encoder=encoder) as session:
        assert session.available_tasks == ("calm", "detection")
        assert set(session.send(red, state=4).raise_for_error().tasks) == {"calm"}
        asked = session.send(red, state=4, tasks=["detection"])
    assert asked.task_errors["detection"].reason == "needs_features"
    assert "tiny-features" in asked.task_errors["detection"].message


def test_both_at_once_give_findings_of_features_and_a_picture(
    both: ServerThread,
    feature_bundle: Bundle,
    tiny_bundle: Bundle,
    encoder: EdgeEncoder,
    red: NDArray[np.uint8],
) -> None:
    with EdgeSession(both.address, bundle=feature_bundle, also=[tiny_bundle]) as session:
        result = session.send(red, state=1, send_with={"tiny": 2}, picture=True).raise_for_error()
        by_call = session.analyze(red, state=1, send_with=["tiny"], picture=True).raise_for_error()
        without = session.analyze(red, state=1).raise_for_error()
        features = session.encoder.encode(red, state=1)
    picture = encoder.encode(red, state=2)
    assert models(result) == ["blocks"]
    assert models(result, "calm") == ["calm-model"]
    assert same_picture(result.image(), BitstreamDecoder(tiny_bundle).picture(picture))
    analysis = result.analysis
    assert analysis is not None
    assert (analysis.state, analysis.bundle_id) == (1, feature_bundle.id)
    assert (result.state, result.bundle_id) == (1, feature_bundle.short_id)
    assert analysis.payload_bytes == features.file_bytes + picture.file_bytes
    assert result.payload_bytes == analysis.payload_bytes
    assert analysis.bits_per_pixel == pytest.approx(8 * analysis.payload_bytes / (96 * 160))
    assert set(by_call.tasks) == {"detection", "calm"}
    assert set(without.tasks) == {"detection"}


def test_a_client_with_any_of_the_bundles_need_not_switch(
    both: ServerThread, feature_bundle: Bundle, tiny_bundle: Bundle, red: NDArray[np.uint8]
) -> None:
    ids = [tiny_bundle.id, feature_bundle.id]
    for number, bundle_id in enumerate(ids):
        client = RawClient(both.address)
        welcome = client.hello(session=f"s{number}", bundle_id=bundle_id, can_switch_bundle=False)
        assert (welcome.bundle_id, list(welcome.accepted_bundle_ids)) == (tiny_bundle.id, ids)
        client.close()
    with EdgeSession(both.address, bundle=feature_bundle) as session:
        assert session.bundle.id == feature_bundle.id


def test_a_bundle_beside_the_first_that_the_server_does_not_take_is_refused(
    start_server: Start, feature_bundle: Bundle, tiny_bundle: Bundle
) -> None:
    server = start_server()
    with (
        pytest.raises(SessionError) as caught,
        EdgeSession(server.address, bundle=tiny_bundle, also=[feature_bundle]),
    ):
        pass
    assert caught.value.reason == "bundle_mismatch"
    with EdgeSession(server.address, bundle=tiny_bundle) as session:
        for call in (session.send, session.analyze):
            with pytest.raises(SessionError) as caught:
                call("gone.jpg", send_with=["tiny-features"])
            assert caught.value.reason == "unknown_bundle"


def test_every_bundle_is_handed_over_without_what_only_the_cloud_needs(
    both: ServerThread, feature_bundle: Bundle, tiny_bundle: Bundle
) -> None:
    with open_channel(both.address) as channel:
        stub = bundles_pb2_grpc.BundleServiceStub(channel)
        listed = stub.ListBundles(bundles_pb2.ListBundlesRequest())
        assert [info.name for info in listed.bundles] == ["tiny", "tiny-features"]
        assert listed.current_bundle_id == tiny_bundle.id
        for bundle, missing in (
            (tiny_bundle, "decoder.safetensors"),
            (feature_bundle, "tail.onnx"),
        ):
            chunks = list(stub.GetBundle(bundles_pb2.GetBundleRequest(bundle_id=bundle.id)))
            handed = Bundle.from_zip_bytes(b"".join(chunk.data for chunk in chunks))
            assert handed.id == bundle.id == chunks[0].info.bundle_id
            assert handed.read("extractor.onnx") == bundle.read("extractor.onnx")
            with pytest.raises(FeatherwireError, match=missing):
                handed.read(missing)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.GetBundle(bundles_pb2.GetBundleRequest(bundle_id="0" * 64)))
        assert error_from_call(caught.value, both.address).reason == "not_found"


def test_what_is_encoded_already_has_no_second_bundle(
    both: ServerThread, feature_encoder: EdgeEncoder, tiny_bundle: Bundle, red: NDArray[np.uint8],
    tmp_path: Path,
) -> None:  # fmt: skip
    ready = tmp_path / "red.fwf"
    ready.write_bytes(feature_encoder.encode(red).to_bytes())
    with EdgeSession(both.address, encoder=feature_encoder, also=[tiny_bundle]) as session:
        assert set(session.send(ready).raise_for_error().tasks) == {"detection"}
        with pytest.raises(FeatherwireError) as caught:
            session.send(ready, send_with=["tiny"])
    assert caught.value.reason == "no_photo"


# -- refining one of several ---------------------------------------------------------------------


def test_layers_kept_back_of_another_bundle_give_what_sending_them_would_have(
    both: ServerThread, feature_bundle: Bundle, tiny_bundle: Bundle, red: NDArray[np.uint8]
) -> None:
    with EdgeSession(both.address, bundle=feature_bundle, also=[tiny_bundle]) as session:
        first = session.send(red, state=3)
        assert set(first.tasks) == {"detection"}
        seen = session.refine(first.sequence, state=3, bundle="tiny", picture=True)
        finer = session.refine(first.sequence, state=0, bundle="tiny", picture=True)
        direct = session.send(red, state=3, send_with=["tiny"], picture=True)
        with pytest.raises(SessionError) as caught:
            session.refine(first.sequence, state=0, bundle="tiny")
    assert caught.value.reason == "not_refinable"
    assert (seen.state, seen.bundle_id) == (3, tiny_bundle.short_id)
    assert seen.sequence == finer.sequence == first.sequence
    assert same_picture(finer.image(), direct.image())
    assert finer.payload_bytes == direct.payload_bytes
    assert models(direct) == ["blocks"]
    assert models(seen) == ["detection-model"]  # a second look, on what has just come
    assert seen.analysis is not None
    assert seen.analysis.bundle_id == feature_bundle.id


def test_a_chain_is_refined_to_its_own_finest_state(
    both: ServerThread, feature_bundle: Bundle, red: NDArray[np.uint8]
) -> None:
    with EdgeSession(both.address, bundle=feature_bundle) as session:
        coarse = session.send(red, state=3, refinable=True)
        refined = session.refine(coarse.sequence)
    assert (coarse.state, refined.state) == (3, 2)
    assert models(refined) == ["blocks"]


def test_refinements_that_do_not_fit_fail_alone_and_the_frame_stays(
    client: Client, encoder: EdgeEncoder, feature_encoder: EdgeEncoder, red: NDArray[np.uint8]
) -> None:
    features, picture = feature_encoder.encode(red, state=1), encoder.encode(red)
    client.frame(1, features)
    client.wait_for("result")
    for number, (layers, bundle_id, reason) in enumerate(
        (
            (picture.layers[1:], picture.bundle_id, "layer_gap"),
            (picture.layers, b"\1" * 8, "bundle_mismatch"),
            (picture.layers, b"\1" * 7, "bad_bundle_id"),
            (picture.layers, features.bundle_id, "layer_gap"),
            (picture.layers, b"", "layer_gap"),
        ),
        start=2,
    ):
        client.say(refine=refine_message(Refine(1, layers, bundle_id=bundle_id)))
        assert client.wait_for("result", number)[-1].outcome.error.reason == reason
    good = Refine(1, picture.layers, ("calm",), PictureRequest(), picture.bundle_id)
    client.say(refine=refine_message(good))
    result = client.wait_for("result", 7)[-1]
    assert (result.sequence, result.state) == (1, 0)
    assert result.bundle_short_id == picture.bundle_id
    assert result.outcome.HasField("picture")
    assert set(result.outcome.analysis.tasks) == {"calm"}


def test_equal_states_of_two_bundles_are_two_versions_of_a_frame(
    client: Client, encoder: EdgeEncoder, feature_encoder: EdgeEncoder, red: NDArray[np.uint8]
) -> None:
    features, picture = feature_encoder.encode(red, state=0), encoder.encode(red, state=0)
    client.frame(1, features)
    client.wait_for("result")
    refine = refine_message(Refine(1, picture.layers, bundle_id=picture.bundle_id))
    client.say(refine=refine)
    second = client.wait_for("result", 2)[1]
    client.say(refine=refine)
    client.wait_for("result", 3)  # what is said again is looked for in the log, side by side
    client.frame(1, features)
    again = client.wait_for("result", 4)
    assert again[2] == second  # the very messages
    assert again[3] == again[0]
    assert [ack.duplicate for ack in client.wait_for("ack", 4)] == [False, False, True, True]


# -- damaged -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (lambda f: setattr(f[1], "width", 161), "size_mismatch"),
        (lambda f: setattr(f[1], "bundle_short_id", f[0].bundle_short_id), "invalid_message"),
        (lambda f: setattr(f[1], "bundle_short_id", b"\0" * 8), "bundle_mismatch"),
        (lambda f: setattr(f[1].layers[0], "crc32c", 1), "crc_mismatch"),
        (lambda f: f[1].ClearField("layers"), "limit_exceeded"),
        (lambda f: f.extend([f[1]] * 20), "invalid_message"),
    ],
)
def test_a_forged_second_bitstream_fails_the_frame_alone(
    client: Client, encoder: EdgeEncoder, feature_encoder: EdgeEncoder,
    red: NDArray[np.uint8], forge: Any, reason: str,
) -> None:  # fmt: skip
    pair = (feature_encoder.encode(red, version=3), encoder.encode(red, version=3))
    message = ingest_pb2.Frame(sequence=1, features=[features_message(one) for one in pair])
    forge(message.features)
    client.say(frame=message)
    assert client.wait_for("result")[0].outcome.error.reason == reason
    client.frame(2, pair)
    assert client.wait_for("result", 2)[1].outcome.HasField("analysis")


def test_a_second_bitstream_of_wrong_content_fails_the_frame_alone(
    client: Client, encoder: EdgeEncoder, feature_encoder: EdgeEncoder, red: NDArray[np.uint8]
) -> None:
    features, picture = feature_encoder.encode(red), encoder.encode(red)
    damaged = replace(picture, layers=(Layer(4, b"\xff" * 40), *picture.layers[1:]))
    client.frame(1, (features, damaged), tasks=("detection",))
    client.frame(
        2, (features, replace(features, bundle_id=picture.bundle_id)), tasks=("detection",)
    )
    wrong = replace(picture, bundle_id=features.bundle_id)
    client.frame(3, (wrong, picture), tasks=("detection",))
    for result in client.wait_for("result", 3):
        assert result.outcome.error.kind == 1, result.outcome  # ERROR_KIND_BITSTREAM
    client.frame(4, (features, picture), tasks=("detection",))
    assert client.wait_for("result", 4)[3].outcome.HasField("analysis")


def test_a_server_opens_the_packaged_bundles_beside_its_own(
    start_server: Start, tiny_bundle: Bundle, feature_bundle: Bundle
) -> None:
    from shared.bundle import packaged_names

    packaged = [Bundle.load(name).id for name in packaged_names()]
    client = RawClient(start_server(bundles=None).address)
    assert list(client.hello().accepted_bundle_ids) == [tiny_bundle.id, *packaged]
    client.close()
    beside = start_server(bundle=None, bundles=(feature_bundle.origin,))
    client = RawClient(beside.address)
    assert list(client.hello().accepted_bundle_ids) == [Bundle.load().id, feature_bundle.id]
    client.close()


def test_a_server_of_features_alone_needs_no_weights_for_pictures(
    start_server: Start, feature_bundle: Bundle, tmp_path: Path, red: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("FEATHERWIRE_MODELS", str(tmp_path))
    tasks = ("detection", "segmentation")
    server = start_server(bundle=feature_bundle.origin, bundles=(), tasks=tasks)
    with EdgeSession(server.address, bundle=feature_bundle) as session:
        assert session.available_tasks == ("detection",)
        assert models(session.send(red).raise_for_error()) == ["blocks"]


def test_weights_that_lack_are_told_although_a_tail_does_the_task(
    start_server: Start, feature_bundle: Bundle, encoder: EdgeEncoder, red: NDArray[np.uint8]
) -> None:
    def open_without_weights() -> Any:
        raise ModelError("weights_missing", "no weights", command="fetch them")

    tasks = {"detection": open_without_weights, "calm": lambda: FixedTask("calm")}
    server = start_server(tasks, bundles=(feature_bundle.origin,))
    with EdgeSession(server.address, encoder=encoder) as session:
        assert session.available_tasks == ("detection", "calm")
        assert set(session.send(red, state=4).raise_for_error().tasks) == {"calm"}
        result = session.send(red, state=4, tasks=["detection"])
    assert result.task_errors["detection"].reason == "weights_missing"


def test_damaged_pairs_and_refinements_on_the_socket_leave_the_server_serving(
    both: ServerThread, encoder: EdgeEncoder, feature_encoder: EdgeEncoder, red: NDArray[np.uint8]
) -> None:
    rng = random.Random("several")
    features, picture = feature_encoder.encode(red, state=1), encoder.encode(red, state=3)
    finer = encoder.encode(red).layers[2:]
    good = [
        ingest_pb2.ConnectRequest(hello=hello_message(Hello("d", "s", can_switch_bundle=True))),
        ingest_pb2.ConnectRequest(frame=frame_message(Frame(1, (features, picture)))),
        ingest_pb2.ConnectRequest(
            refine=refine_message(Refine(1, finer, ("calm",), bundle_id=picture.bundle_id))
        ),
        ingest_pb2.ConnectRequest(command_reply=fleet_pb2.CommandReply(command_id="refine-1")),
    ]
    data = [message.SerializeToString() for message in good]
    codes = []
    with open_channel(both.address) as channel:
        connect = channel.stream_stream("/featherwire.v1.IngestService/Connect")
        for round_number in range(120):
            messages = list(data)
            place = 1 + round_number % 3
            messages[place] = mutate(messages[place], rng)
            call = connect(iter(messages), timeout=20)
            with suppress(grpc.RpcError):
                assert len(list(call)) < 50
            codes.append(call.code())
    assert grpc.StatusCode.DEADLINE_EXCEEDED not in codes
    assert sum(code is not grpc.StatusCode.OK for code in codes) > 10
    with EdgeSession(both.address, encoder=encoder) as session:
        assert session.send(red, state=4).analysis is not None

"""The stream: hello, credits, acks, dedupe, refine; in memory, or over sockets to a process."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from numpy.typing import NDArray

from cloud_server.engine.files import BitstreamDecoder
from cloud_server.ingest.flow import StreamLimits
from cloud_server.results.log import ResultLog
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from shared.bitstream import Bitstream, Layer
from shared.bundle import Bundle
from shared.errors import BudgetError, BundleError, FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2, ingest_pb2_grpc, types_pb2
from shared.rpc.channel import open_channel
from shared.rpc.errors import error_from_call
from shared.wire import PictureRequest
from shared.wire.features import features_message
from shared.wire.requests import (
    Frame,
    Refine,
    frame_message,
    refine_message,
)
from tests.support.memory_server import MemoryClient, MemoryServer
from tests.support.mutations import mutate
from tests.support.pictures import same_picture
from tests.support.raw_client import RawClient
from tests.support.servers import ROOT

WANTED = PictureRequest()
BYE = ingest_pb2.Bye()


@pytest.fixture
def client(in_memory: MemoryServer) -> MemoryClient:
    return in_memory.client()


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> Bitstream:
    return encoder.encode(image)


def test_a_photo_comes_back_as_the_picture_that_the_decode_command_makes(
    server: str, encoder: EdgeEncoder, image: NDArray[np.uint8], tiny_bundle: Bundle
) -> None:
    with EdgeSession(server, encoder=encoder) as session:
        result = session.send(image, state=2, picture=True)
    decoder = BitstreamDecoder(tiny_bundle)
    expected = decoder.picture(encoder.encode(image, state=2))
    assert same_picture(result.image(), expected)
    assert result.analysis is not None
    assert (result.analysis.width, result.analysis.height) == (160, 96)
    assert result.analysis.state == 2
    assert result.analysis.bundle_id == tiny_bundle.id
    assert result.analysis.payload_bytes == len(encoder.encode(image, state=2).to_bytes())
    assert {"decode", "reconstruct", "picture", "queue", "total"} <= set(
        result.analysis.milliseconds
    )


def test_a_device_without_a_bundle_gets_the_servers_and_keeps_it(
    server: str, image: NDArray[np.uint8], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with EdgeSession(server, bundle_cache_dir=tmp_path) as session:
        assert session.bundle.id == tiny_bundle.id
        assert session.send(image, state=4).analysis is not None
    kept = tmp_path / f"{tiny_bundle.id}.zip"
    assert Bundle.load(kept).id == tiny_bundle.id
    kept.write_bytes(b"damaged")
    with EdgeSession(server, bundle_cache_dir=tmp_path) as session:
        assert session.bundle.id == tiny_bundle.id
    assert Bundle.load(kept).id == tiny_bundle.id


def test_a_device_that_insists_on_another_bundle_is_told_which_to_use(
    server: str, tiny_bundle: Bundle
) -> None:
    client = RawClient(server)
    client.say(
        hello=ingest_pb2.Hello(protocol_version=1, device="d", session="s", bundle_id="0" * 64)
    )
    client.ended.wait(10)
    error = client.all("error")[0]
    assert error.reason == "bundle_mismatch"
    assert tiny_bundle.id in error.details["bundle_id"]
    assert "fetch it" in error.message
    assert "without a bundle of its own" in error.message
    assert client.error is not None
    assert client.error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error_from_call(client.error, server).reason == "bundle_mismatch"
    client.close()


def test_another_protocol_version_is_refused_with_the_right_one(client: MemoryClient) -> None:
    client.say(hello=ingest_pb2.Hello(protocol_version=99, device="d", session="s"))
    client.ended.wait(10)
    assert client.all("error")[0].reason == "unsupported_version"


def test_a_stream_must_open_with_hello(client: MemoryClient, bitstream: Bitstream) -> None:
    client.frame(1, bitstream)
    client.ended.wait(10)
    assert client.all("error")[0].reason == "no_hello"


def test_every_frame_is_acknowledged_answered_and_its_credit_returned(
    client: MemoryClient, bitstream: Bitstream
) -> None:
    welcome = client.hello(session="acks")
    assert welcome.resume_after_sequence == 0
    for sequence in range(1, welcome.credits + 1):
        client.frame(sequence, bitstream)
    results = client.wait_for("result", welcome.credits)
    # Each brings its credit back, and earns another: nothing was asked of it.
    returned = 2 * welcome.credits
    client.wait_for_credits(returned)
    assert sum(one.credits for one in client.all("credit")) == returned
    assert {ack.sequence for ack in client.all("ack")} == set(range(1, welcome.credits + 1))
    assert sorted(result.sequence for result in results) == list(range(1, welcome.credits + 1))
    assert [result.result_id for result in results] == list(range(1, welcome.credits + 1))
    assert all(result.outcome.WhichOneof("outcome") == "analysis" for result in results)


def test_an_acknowledgement_says_how_long_the_server_had_the_frame(
    client: MemoryClient, bitstream: Bitstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device takes it from the round trip: what is left is the network's."""
    client.hello(session="held")
    client.frame(1, bitstream)
    client.wait_for("ack")
    accept = ResultLog.accept

    async def slowly(*arguments: Any) -> Any:
        await asyncio.sleep(0.4)
        return await accept(*arguments)

    monkeypatch.setattr(ResultLog, "accept", slowly)
    sent_s = time.monotonic()
    client.frame(2, bitstream)
    held_ms = client.wait_for("ack", 2)[1].held_ms
    assert 400 <= held_ms <= 1000 * (time.monotonic() - sent_s)


def test_more_frames_than_credits_end_the_stream(
    client: MemoryClient, bitstream: Bitstream
) -> None:
    welcome = client.hello(session="greedy")
    big = Bitstream(bitstream.bundle_id, 4096, 4096, bitstream.state, bitstream.layers)
    for sequence in range(1, 4 * welcome.credits):
        client.frame(sequence, big, picture=WANTED)
    assert client.ended.wait(10)
    assert client.all("error")[0].reason == "credits_exceeded"


def test_a_frame_sent_again_is_answered_from_memory_and_not_processed_again(
    client: MemoryClient, bitstream: Bitstream, in_memory: MemoryServer
) -> None:
    client.hello(session="again")
    client.frame(1, bitstream, picture=WANTED)
    first = client.wait_for("result")[0]
    client.frame(1, bitstream, picture=WANTED)
    first_again = client.wait_for("result", 2)[1]
    assert first_again == first  # the very message, its times included
    assert [ack.duplicate for ack in client.wait_for("ack", 2)] == [False, True]
    client.close()

    # And on another stream of the session; results that were seen are not sent again.
    other = in_memory.client()
    welcome = other.hello(session="again", last_result_seen=first.result_id)
    assert welcome.resume_after_sequence == 1
    other.frame(1, bitstream, picture=WANTED)
    assert other.wait_for("result") == [first]
    assert len(other.wait_for("credit")) == 1
    other.close()


def test_results_that_a_lost_stream_did_not_deliver_come_with_the_next_one(
    in_memory: MemoryServer, bitstream: Bitstream
) -> None:
    client = in_memory.client()
    client.hello(session="lost")
    client.frame(1, bitstream)
    client.frame(2, bitstream)
    client.wait_for("ack", 2)
    client.close()
    other = in_memory.client()
    welcome = other.hello(session="lost", last_result_seen=0)
    assert welcome.resume_after_sequence == 2
    assert [r.result_id for r in other.wait_for("result", 2)] == [1, 2]
    other.close()


def test_a_second_stream_of_a_session_supersedes_the_first(
    in_memory: MemoryServer, client: MemoryClient, bitstream: Bitstream
) -> None:
    client.hello(session="twice")
    other = in_memory.client()
    other.hello(session="twice")
    assert client.ended.wait(10)
    assert client.all("error")[0].reason == "superseded"
    other.frame(1, bitstream)
    other.wait_for("result")
    other.close()


def test_refining_gives_what_the_finer_state_would_have_given(
    server: str, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    with EdgeSession(server, encoder=encoder, predict=False) as session:
        coarse = session.send(image, state=4, refinable=True, picture=True)
        refined = session.refine(coarse.sequence, state=1, picture=True)
        twice = session.refine(coarse.sequence, state=0, picture=True)
        assert (coarse.state, refined.state, twice.state) == (4, 1, 0)
        assert refined.sequence == coarse.sequence
        direct = session.send(image, state=0, picture=True)
        assert same_picture(twice.image(), direct.image())
        with pytest.raises(SessionError) as caught:
            session.refine(coarse.sequence, state=0)
        assert caught.value.reason == "not_refinable"


def test_refining_replaces_a_partial_layer_by_the_whole_one(
    server: str, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    sizes = encoder.encode(image).cumulative_bytes()
    budget = (sizes[1] + sizes[0]) // 2 + 8
    within = encoder.encode(image, max_bytes=budget)
    assert within.partial is not None
    with EdgeSession(server, encoder=encoder, predict=False) as session:
        coarse = session.send(image, state=within.state, picture=True)
        first = session.send(image, max_bytes=budget, refinable=True, picture=True)
        assert (first.state, first.payload_bytes) == (within.state, within.file_bytes)
        assert first.analysis is not None
        assert first.analysis.payload_bytes == within.file_bytes
        # What came of the layer is in the picture, and all of it after the refinement.
        assert not same_picture(first.image(), coarse.image())
        refined = session.refine(first.sequence, state=within.state - 1, picture=True)
        assert refined.state == within.state - 1
        direct = session.send(image, state=within.state - 1, picture=True)
        assert same_picture(refined.image(), direct.image())
        assert not same_picture(refined.image(), first.image())


def test_ready_features_are_shortened_to_a_budget_without_the_photo(
    server: str, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    whole = encoder.encode(image)
    with EdgeSession(server, encoder=encoder, predict=False) as session:
        for budget in (min(whole.cumulative_bytes().values()), whole.file_bytes - 40):
            sent = session.send(whole, max_bytes=budget, picture=True)
            direct = session.send(image, max_bytes=budget, picture=True)
            assert sent.payload_bytes == direct.payload_bytes <= budget
            assert same_picture(sent.image(), direct.image())
        with pytest.raises(BudgetError) as caught:
            session.send(whole, max_bytes=20)
        assert caught.value.reason == "budget_too_small"
        with pytest.raises(BudgetError) as caught:
            session.send(whole, psnr_db=30)
        assert caught.value.reason == "no_photo"


def test_refining_a_frame_that_is_not_kept_or_leaves_a_gap_fails_alone(
    client: MemoryClient, bitstream: Bitstream
) -> None:
    client.hello(session="gap")
    finest = bitstream.layers[-1]
    client.say(refine=refine_message(Refine(77, (finest,))))
    assert client.wait_for("result")[0].outcome.error.reason == "refine_evicted"
    client.frame(1, bitstream.truncate(4))
    client.wait_for("result", 2)
    client.say(refine=refine_message(Refine(1, (finest,))))
    assert client.wait_for("result", 3)[2].outcome.error.reason == "layer_gap"
    client.say(refine=refine_message(Refine(1, bitstream.layers[1:])))
    assert client.wait_for("result", 4)[3].outcome.HasField("analysis")


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (lambda f: setattr(f.layers[1], "crc32c", 1), "crc_mismatch"),
        (lambda f: setattr(f.layers[1], "state", 200), "bad_state"),
        (lambda f: setattr(f, "state", 3), "bad_state"),
        (lambda f: setattr(f, "width", 2**31), "bad_size"),
        (lambda f: setattr(f, "height", 0), "bad_size"),
        (lambda f: setattr(f, "bundle_short_id", b"short"), "bad_bundle_id"),
        (lambda f: setattr(f, "bundle_short_id", b"\0" * 8), "bundle_mismatch"),
        (lambda f: f.ClearField("layers"), "limit_exceeded"),
        (lambda f: f.layers.extend([f.layers[-1]] * 100), "limit_exceeded"),
    ],
)
def test_a_forged_frame_fails_alone_and_the_stream_goes_on(
    client: MemoryClient,
    encoder: EdgeEncoder,
    image: NDArray[np.uint8],
    bitstream: Bitstream,
    forge: Any,
    reason: str,
) -> None:
    client.hello(session=f"forged-{time.monotonic_ns()}")
    features = features_message(encoder.encode(image, version=3))
    forge(features)
    client.say(frame=ingest_pb2.Frame(sequence=1, features=[features]))
    assert client.wait_for("result")[0].outcome.error.reason == reason
    client.frame(2, bitstream)
    assert client.wait_for("result", 2)[1].outcome.HasField("analysis")


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (lambda f: setattr(f, "container", f.container[:-1]), "truncated"),
        (lambda f: setattr(f, "container", f.container + b"!"), "trailing_bytes"),
        (lambda f: setattr(f, "container", b"\x89\xf0" + f.container[2:]), "bad_version"),
        (lambda f: setattr(f, "container", b"no" + f.container[2:]), "bad_magic"),
        (lambda f: setattr(f, "container", b"\x89\xc3" + f.container[2:]), "bad_header"),
        (lambda f: setattr(f, "bundle_short_id", b"\0" * 8), "crc_mismatch"),
        (lambda f: setattr(f, "bundle_short_id", b"short"), "bad_bundle_id"),
        (lambda f: f.ClearField("container"), "limit_exceeded"),
        (lambda f: setattr(f, "width", 160), "invalid_message"),
        (lambda f: f.layers.add(), "invalid_message"),
        (lambda f: (f.ClearField("bundle_short_id"), setattr(f, "bundle_index", 7)),
         "bad_bundle_id"),
    ],
)  # fmt: skip
def test_a_forged_file_in_a_frame_fails_alone_and_the_stream_goes_on(
    client: MemoryClient, bitstream: Bitstream, forge: Any, reason: str
) -> None:
    client.hello(session=f"forged-{time.monotonic_ns()}")
    features = features_message(bitstream)
    forge(features)
    client.say(frame=ingest_pb2.Frame(sequence=1, features=[features]))
    assert client.wait_for("result")[0].outcome.error.reason == reason
    client.frame(2, bitstream)
    assert client.wait_for("result", 2)[1].outcome.HasField("analysis")


def test_layers_with_valid_checksums_but_wrong_content_fail_alone(
    client: MemoryClient, bitstream: Bitstream
) -> None:
    client.hello(session="content")
    layers = (Layer(bitstream.layers[0].state, b"\xff" * 40), *bitstream.layers[1:])
    wrong = Bitstream(bitstream.bundle_id, 160, 96, bitstream.state, layers)
    client.frame(1, wrong, picture=PictureRequest())
    error = client.wait_for("result")[0].outcome.error
    assert error.kind == types_pb2.ERROR_KIND_BITSTREAM
    client.frame(2, bitstream)
    assert client.wait_for("result", 2)[1].outcome.HasField("analysis")


def test_an_unknown_task_fails_alone(
    server: str, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    with EdgeSession(server, encoder=encoder) as session:
        result = session.send(image, state=4, tasks=["telepathy"])
    assert result.analysis is not None
    assert result.task_errors["telepathy"].reason == "unknown_task"
    with pytest.raises(FeatherwireError, match="telepathy"):
        result.raise_for_error()


def test_a_heartbeat_is_returned(client: MemoryClient) -> None:
    client.hello(session="heartbeat")
    client.say(heartbeat=ingest_pb2.Heartbeat(nonce=42))
    beat = client.wait_for("heartbeat")[0]
    assert (beat.nonce, beat.reply) == (42, True)


def test_bye_and_half_close_end_the_stream_after_the_last_result(
    in_memory: MemoryServer, bitstream: Bitstream
) -> None:
    for number, leave in enumerate((MemoryClient.half_close, lambda c: c.say(bye=BYE))):
        client = in_memory.client()
        client.hello(session=f"leave-{number}")
        for sequence in (1, 2, 3):
            client.frame(sequence, bitstream)
        leave(client)
        assert client.ended.wait(10)
        assert client.error is None
        assert len(client.all("result")) == 3
        client.close()


def test_an_oversized_message_ends_its_own_call_only(
    server: str, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    with grpc.insecure_channel(
        server, options=[("grpc.max_send_message_length", 2**28)]
    ) as channel:
        features = types_pb2.Features(layers=[types_pb2.Layer(payload=bytes(40 * 2**20))])
        with pytest.raises(grpc.RpcError) as caught:
            ingest_pb2_grpc.IngestServiceStub(channel).Analyze(
                ingest_pb2.AnalyzeRequest(features=[features]), timeout=30
            )
    assert error_from_call(caught.value, server).reason == "message_too_large"
    with EdgeSession(server, encoder=encoder) as session:
        assert session.send(image, state=4).analysis is not None


def test_a_frame_over_the_servers_cap_is_refused_by_the_client_itself(
    server: str, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    with EdgeSession(server, encoder=encoder) as session:
        layers = tuple(Layer(state, bytes(14 * 2**20)) for state in (4, 3, 2))
        large = Bitstream(encoder.bundle.short_id, 64, 64, 2, layers)
        with pytest.raises(SessionError) as caught:
            session.send(large)
        assert caught.value.reason == "message_too_large"
        impossible = replace(large, state=4, layers=(Layer(4, bytes(40 * 2**20)),))
        for one, reason in ((large, "message_too_large"), (impossible, "limit_exceeded")):
            results = list(session.stream([one, image]))
            assert [result.error and result.error.reason for result in results] == [reason, None]


def test_analyze_needs_no_stream(
    server: str, encoder: EdgeEncoder, image: NDArray[np.uint8], bitstream: Bitstream
) -> None:
    with EdgeSession(server, encoder=encoder) as session:
        by_call = session.analyze(image, state=1, picture="webp_lossless")
        by_stream = session.send(image, state=1, picture=True)
        assert same_picture(by_call.image(), by_stream.image())
        other = Bitstream(b"\0" * 8, 160, 96, bitstream.state, bitstream.layers)
        with pytest.raises(BundleError) as caught:
            session.analyze(other)
        assert caught.value.reason == "bundle_mismatch"
        assert encoder.bundle.id in caught.value.message
        assert "encode the photo again" in caught.value.message


def test_photos_that_cannot_be_read_are_reported_and_the_rest_goes_on(
    server: str, encoder: EdgeEncoder, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with EdgeSession(server, encoder=encoder) as session:
        results = list(session.stream([image, broken, tmp_path / "gone.fwf", image], state=4))
    failed = {
        result.source: result.error.reason
        for result in results
        if result.error is not None and isinstance(result.source, Path)
    }
    assert set(failed) == {broken, tmp_path / "gone.fwf"}
    assert sum(result.analysis is not None for result in results) == 2


@pytest.mark.parametrize("asks", [False, True])
def test_two_hundred_frames_keep_within_their_credits(
    server: str, encoder: EdgeEncoder, bitstream: Bitstream, asks: bool
) -> None:
    limits = StreamLimits()
    sequences, seen = [], set()
    with EdgeSession(server, encoder=encoder) as session:
        assert session.credits == limits.credits
        for result in session.stream([bitstream] * 200, state=4, picture=asks):
            seen.add(session.credits)
            sequences.append(result.raise_for_error().sequence)
    assert sorted(sequences) == list(range(1, 201))
    # Frames that are only kept earn more, those that ask for something do not.
    most = limits.credits if asks else limits.kept_credits
    assert max(seen) <= most
    assert asks or max(seen) > limits.credits


def test_a_client_killed_mid_stream_leaves_the_server_serving(
    server: str, encoder: EdgeEncoder, image: NDArray[np.uint8], tiny_bundle: Bundle
) -> None:
    code = f"""
import sys, numpy as np
from edge_client.session import EdgeSession
from tests.support.pictures import same_picture
image = np.zeros((256, 256, 3), np.uint8)
with EdgeSession({server!r}, bundle={tiny_bundle.origin!r}) as session:
    for number, result in enumerate(session.stream([image] * 100000, picture=True)):
        if number == 5:
            print("running", flush=True)
"""
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.kill()
        process.wait(10)
        process.stdout.close()
        with EdgeSession(server, encoder=encoder) as session:
            assert session.send(image, state=4).analysis is not None


def test_health_and_reflection_tell_what_is_served(server: str) -> None:
    with open_channel(server) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "featherwire.v1.IngestService"):
            reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = stub.ServerReflectionInfo(iter([request]), timeout=5)
        names = {service.name for service in reply.list_services_response.service}
        assert {"featherwire.v1.IngestService", "featherwire.v1.BundleService"} <= names


def test_a_server_that_is_not_there_is_unreachable_in_time() -> None:
    started = time.monotonic()
    with pytest.raises(SessionError) as caught, EdgeSession("127.0.0.1:1", connect_timeout_s=0.5):
        pass
    assert caught.value.reason == "unreachable"
    assert time.monotonic() - started < 5


def test_an_address_without_a_port_is_refused_at_once() -> None:
    with pytest.raises(SessionError) as caught, EdgeSession("localhost"):
        pass
    assert caught.value.reason == "bad_address"


def test_damaged_requests_on_the_socket_leave_the_server_serving(
    server: str, encoder: EdgeEncoder, image: NDArray[np.uint8], bitstream: Bitstream
) -> None:
    rng = random.Random("socket")
    hello = ingest_pb2.Hello(protocol_version=1, device="d", session="s", can_switch_bundle=True)
    good = [
        ingest_pb2.ConnectRequest(hello=hello),
        ingest_pb2.ConnectRequest(frame=frame_message(Frame(1, (bitstream,), picture=WANTED))),
        ingest_pb2.ConnectRequest(refine=refine_message(Refine(1, bitstream.layers[-1:]))),
    ]
    data = [message.SerializeToString() for message in good]
    codes = []
    with open_channel(server) as channel:
        connect = channel.stream_stream("/featherwire.v1.IngestService/Connect")
        for round_number in range(150):
            messages = list(data)
            place = round_number % len(messages)
            messages[place] = mutate(messages[place], rng)
            call = connect(iter(messages), timeout=20)
            with suppress(grpc.RpcError):
                assert len(list(call)) < 50
            codes.append(call.code())
    assert grpc.StatusCode.DEADLINE_EXCEEDED not in codes
    assert sum(code is not grpc.StatusCode.OK for code in codes) > 20
    with EdgeSession(server, encoder=encoder) as session:
        assert session.send(image, state=4).analysis is not None

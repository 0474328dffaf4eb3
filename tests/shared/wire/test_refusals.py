"""Messages that cannot be are refused by name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from shared.bitstream import FORMAT_VERSIONS, Bitstream, Layer, PartialLayer
from shared.errors import (
    BitstreamError,
    FeatherwireError,
    SessionError,
)
from shared.limits import Limits
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.proto.featherwire.v1 import types_pb2 as pb
from shared.rpc.channel import client_options, server_options
from shared.wire import PictureEncoding, PictureRequest
from shared.wire.commands import RatePolicy, RefineCommand, parse_command, parse_rate_policy
from shared.wire.features import parse_features
from shared.wire.requests import (
    Frame,
    frame_message,
    parse_frame,
    parse_hello,
    parse_picture_request,
    parse_tasks,
    picture_request_message,
)
from shared.wire.results import outcome_from_message
from tests.support.messages import analysis_message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"protocol_version": 2}, "unsupported_version"),
        ({"device": ""}, "invalid_message"),
        ({"device": "x" * 129}, "invalid_message"),
        ({"session": "a b"}, "invalid_message"),
        ({"bundle_id": "xyz"}, "invalid_message"),
        ({"last_result_seen": 2**64 - 1}, "invalid_message"),
        ({"client_version": "v" * 129}, "invalid_message"),
        ({"labels": {"a b": "c"}}, "invalid_message"),
        ({"labels": {str(number): "c" for number in range(99)}}, "invalid_message"),
        ({"labels": {"a": "c" * 999}}, "invalid_message"),
    ],
)
def test_a_bad_hello_is_refused(fields: dict[str, Any], reason: str) -> None:
    good = {"protocol_version": 1, "device": "d", "session": "s"}
    with pytest.raises(SessionError) as caught:
        parse_hello(ingest_pb2.Hello(**(good | fields)))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "change",
    [
        lambda f: setattr(f, "sequence", 0),
        lambda f: setattr(f, "sequence", 2**64 - 1),
        lambda f: f.tasks.append("No Task"),
        lambda f: f.tasks.extend(f"task_{number}" for number in range(17)),
        lambda f: setattr(f.picture, "encoding", 77),
        lambda f: setattr(f.picture, "quality", 101),
        lambda f: setattr(f.picture, "decoder", "No Decoder"),
        lambda f: setattr(f.picture, "decoder", "x" * 41),
        lambda f: setattr(f.picture, "seed", 2**63),
        lambda f: setattr(f.captured_at, "seconds", 2**62),
        lambda f: setattr(f.captured_at, "nanos", -5),
        lambda f: f.ClearField("features"),
        lambda f: f.features.append(f.features[0]),
        lambda f: f.features.extend(pb.Features(bundle_short_id=bytes([n] * 8)) for n in range(8)),
    ],
)
def test_a_bad_frame_message_is_refused(change: Any) -> None:
    frame = frame_message(Frame(1, (Bitstream(b"8" * 8, 64, 64, 0, (Layer(0, b"x"),)),)))
    change(frame)
    with pytest.raises(SessionError) as caught:
        parse_frame(frame)
    assert caught.value.reason == "invalid_message"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: setattr(f.partial, "passes", 0), "bad_passes"),
        (lambda f: setattr(f.partial, "passes", 2**32 - 1), "bad_passes"),
        (lambda f: setattr(f.partial, "passes", 3), "crc_mismatch"),
        (lambda f: setattr(f.partial, "payload", b"fouz"), "crc_mismatch"),
        (lambda f: setattr(f.partial, "crc32c", 1), "crc_mismatch"),
        (lambda f: (setattr(f, "state", 0), setattr(f.layers[-1], "state", 0)), "bad_state"),
        (lambda f: setattr(f, "state", 0), "bad_passes"),
        (lambda f: setattr(f.partial, "payload", bytes(25 * 2**20)), "limit_exceeded"),
    ],
)
def test_a_forged_partial_layer_is_refused(change: Any, reason: str) -> None:
    layers = (Layer(2, b"four"), Layer(1, b"four"))
    good = Bitstream(b"8" * 8, 64, 64, 1, layers, PartialLayer(0, 2, b"four"), version=3)
    message = frame_message(Frame(1, (good,))).features[0]
    assert parse_features(message) == good
    change(message)
    with pytest.raises(BitstreamError) as caught:
        parse_features(message)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "limits",
    [
        Limits(max_layer_bytes=3),
        Limits(max_layers=1),
        Limits(max_side=32),
        Limits(max_file_bytes=5),
    ],
)
@pytest.mark.parametrize("version", FORMAT_VERSIONS)
def test_features_over_a_limit_are_refused(limits: Limits, version: int) -> None:
    layers = (Layer(1, b"four"), Layer(0, b"four"))
    bitstream = Bitstream(b"8" * 8, 64, 64, 0, layers, version=version)
    message = frame_message(Frame(1, (bitstream,))).features[0]
    assert parse_features(message) == bitstream
    with pytest.raises(BitstreamError) as caught:
        parse_features(message, limits)
    assert caught.value.reason in {"limit_exceeded", "bad_size"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: setattr(f, "width", 65), "size_mismatch"),
        (lambda f: setattr(f, "height", 63), "size_mismatch"),
        (lambda f: setattr(f, "bundle_short_id", b"short"), "bad_bundle_id"),
        (lambda f: setattr(f.layers[0], "crc32c", 1), "crc_mismatch"),
        (lambda f: setattr(f.layers[0], "payload", bytes(15 * 2**20)), "limit_exceeded"),
    ],
)
def test_a_forged_second_bitstream_is_refused(change: Any, reason: str) -> None:
    first = Bitstream(b"8" * 8, 64, 64, 0, (Layer(0, bytes(10 * 2**20)),), version=3)
    second = replace(first, bundle_id=b"9" * 8, layers=(Layer(0, b"x"),))
    message = frame_message(Frame(1, (first, second)))
    assert parse_frame(message).bitstreams == (first, second)
    change(message.features[1])
    with pytest.raises(BitstreamError) as caught:
        parse_frame(message)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.ClearField("refine_frame"), "unsupported_command"),
        (lambda c: setattr(c.refine_frame, "sequence", 0), "invalid_message"),
        (lambda c: setattr(c.refine_frame, "sequence", 2**64 - 1), "invalid_message"),
        (lambda c: setattr(c.refine_frame, "state", 256), "invalid_message"),
        (lambda c: setattr(c.refine_frame, "bundle_short_id", b"x"), "bad_bundle_id"),
    ],
)
def test_a_command_that_cannot_be_is_refused(change: Any, reason: str) -> None:
    command = fleet_pb2.Command(command_id="c")
    command.refine_frame.sequence = 3
    assert parse_command(command) == RefineCommand(3, b"", 0)
    change(command)
    with pytest.raises(FeatherwireError) as caught:
        parse_command(command)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("fields", "policy"),
    [
        ({"state": 0}, RatePolicy(state=0)),
        ({"bits_per_pixel": 0.1}, RatePolicy(bits_per_pixel=0.1)),
        ({"frame_bytes": 7}, RatePolicy(frame_bytes=7)),
        ({"bytes_per_second": 9, "max_frames_per_second": 2.0}, RatePolicy(None, None, None, 9, 2)),
        ({"max_frames_per_second": 0.5}, RatePolicy(max_frames_per_second=0.5)),
        ({}, RatePolicy()),
    ],
)
def test_rate_policies_are_taken_as_they_are(fields: dict[str, Any], policy: RatePolicy) -> None:
    assert parse_rate_policy(fleet_pb2.RatePolicy(**fields)) == policy
    assert RatePolicy(**policy.to_dict()) == policy


@pytest.mark.parametrize(
    "fields",
    [
        {"state": 256},
        {"bits_per_pixel": 0.0},
        {"bits_per_pixel": float("nan")},
        {"bits_per_pixel": -1.0},
        {"frame_bytes": 0},
        {"bytes_per_second": 2**60},
        {"max_frames_per_second": float("inf")},
        {"max_frames_per_second": -1.0},
    ],
)
def test_a_rate_policy_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SessionError) as caught:
        parse_rate_policy(fleet_pb2.RatePolicy(**fields))
    assert caught.value.reason == "invalid_message"


def test_task_names_lose_repetitions_and_encodings_have_a_default() -> None:
    assert parse_tasks(["b", "a", "b"]) == ("b", "a")
    assert parse_picture_request(pb.PictureRequest()) == PictureRequest(PictureEncoding.PNG)
    wished = PictureRequest(PictureEncoding.WEBP, 80, "vivid", 2**63 - 1)
    message = picture_request_message(wished)
    assert message is not None
    assert parse_picture_request(message) == wished
    assert [encoding.suffix for encoding in PictureEncoding] == [".png", ".webp", ".webp"]


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o.ClearField("outcome"),
        lambda o: setattr(o.analysis, "width", 0),
        lambda o: setattr(o.analysis, "height", 2**31),
        lambda o: setattr(o.analysis, "bits_per_pixel", math.nan),
        lambda o: setattr(o.analysis, "bits_per_pixel", -1.0),
        lambda o: o.analysis.milliseconds.update({"x": math.inf}),
        lambda o: o.analysis.milliseconds.update({"x": -1.0}),
        lambda o: o.analysis.milliseconds.update({str(n): 1.0 for n in range(65)}),
        lambda o: o.analysis.milliseconds.update({"x" * 300: 1.0}),
        lambda o: [o.analysis.tasks[f"t{n}"].CopyFrom(pb.TaskResult(output=1)) for n in range(20)],
        lambda o: [o.task_errors[f"t{n}"].CopyFrom(pb.Error()) for n in range(20)],
        lambda o: setattr(o.analysis.tasks["detection"], "output", 0),
        lambda o: setattr(o.analysis.tasks["detection"], "output", 9),
        lambda o: setattr(o.analysis.tasks["detection"].detections[0], "score", 1.5),
        lambda o: setattr(o.analysis.tasks["detection"].detections[0].box, "x_min", math.nan),
        lambda o: setattr(o.analysis.tasks["detection"].detections[0].box, "x_min", 5.0),
        lambda o: o.analysis.tasks["detection"].models.extend([pb.ModelInfo()] * 20),
        lambda o: setattr(o.analysis.tasks["detection"].models[0], "sha256", "zz"),
        lambda o: setattr(o.analysis.tasks["segmentation"].instances[0].mask, "width", 0),
        lambda o: setattr(o.analysis.tasks["segmentation"].instances[0].mask, "width", 63),
        lambda o: setattr(
            o.analysis.tasks["segmentation"].instances[0].mask, "counts", "0" * (2**22 + 1)
        ),
        lambda o: setattr(o.analysis.tasks["landmarks"].faces[0].landmarks[0], "z", math.inf),
        lambda o: o.analysis.tasks["landmarks"].faces[0].landmarks.extend([pb.Landmark()] * 10_001),
        lambda o: o.analysis.tasks["landmarks"].faces.extend([pb.Face()] * 10_001),
        lambda o: setattr(o.analysis.tasks["classification"].classes[0], "score", math.nan),
        lambda o: setattr(o.analysis.tasks["classification"].classes[0], "score", -0.1),
        lambda o: setattr(o.analysis.tasks["classification"].classes[1], "score", 0.9),
        lambda o: setattr(o.analysis.tasks["classification"].classes[0], "class_name", "x" * 300),
        lambda o: o.analysis.tasks["classification"].classes.extend([pb.Classification()] * 10_001),
        lambda o: setattr(o.analysis.tasks["parts"].regions[0], "share", 1.5),
        lambda o: setattr(o.analysis.tasks["parts"].regions[0], "share", math.inf),
        lambda o: setattr(o.analysis.tasks["parts"].regions[0], "class_name", "x" * 300),
        lambda o: o.analysis.tasks["parts"].regions[0].ClearField("mask"),
        lambda o: setattr(o.analysis.tasks["parts"].regions[0].mask, "height", 31),
        lambda o: setattr(o.analysis.tasks["parts"].regions[0].mask, "counts", "0" * (2**22 + 1)),
        lambda o: o.analysis.tasks["parts"].regions.extend([pb.ClassRegion()] * 256),
        lambda o: setattr(o.picture, "encoding", 0),
        lambda o: setattr(o.picture, "width", 9000),
        lambda o: setattr(o.picture, "data", b""),
    ],
)
def test_a_result_that_cannot_be_is_refused(change: Any) -> None:
    message = analysis_message()
    assert outcome_from_message(message).analysis is not None
    change(message)
    with pytest.raises(SessionError) as caught:
        outcome_from_message(message)
    assert caught.value.reason == "invalid_result"


def test_both_ends_have_the_same_caps_and_the_server_bears_the_clients_pings() -> None:
    client, server = dict(client_options()), dict(server_options())
    for name in ("grpc.max_send_message_length", "grpc.max_receive_message_length"):
        assert client[name] == server[name]
    pause_ms = server["grpc.http2.min_recv_ping_interval_without_data_ms"]
    assert pause_ms < client["grpc.keepalive_time_ms"]

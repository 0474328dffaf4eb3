"""Thousands of damaged messages: typed errors, no other exception, no hang."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from codec import open_cloud
from edge_client.encoder import EdgeEncoder
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.proto.featherwire.v1 import types_pb2 as pb
from shared.wire import error_from_message
from shared.wire.commands import parse_command
from shared.wire.requests import (
    Frame,
    Hello,
    Refine,
    frame_message,
    hello_message,
    parse_frame,
    parse_hello,
    parse_refine,
    refine_message,
)
from shared.wire.results import outcome_from_message
from tests.support.messages import analysis_message
from tests.support.mutations import mutate

MUTATIONS = 2_000


def _frame(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> bytes:
    frame = Frame(3, (encoder.encode(image, state=3),), ("detection",))
    message = frame_message(frame)
    message.captured_at.seconds = 1_700_000_000
    message.picture.quality = 5
    return message.SerializeToString()


def _parse_and_decode(encoder: EdgeEncoder) -> Callable[[Any], Any]:
    codec = open_cloud(encoder.bundle)

    def parse(message: ingest_pb2.Frame) -> Any:
        bitstreams = parse_frame(message).bitstreams
        for bitstream in bitstreams:
            if bitstream.width * bitstream.height <= 2**20:
                codec.decode(bitstream)
        return bitstreams

    return parse


def _pair(first: EdgeEncoder, second: EdgeEncoder, image: NDArray[np.uint8]) -> bytes:
    pair = (first.encode(image, state=1), second.encode(image, state=3))
    return frame_message(Frame(3, pair, ("detection",))).SerializeToString()


def _refine(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> bytes:
    bitstream = encoder.encode(image)
    refine = Refine(3, bitstream.layers, ("detection",), bundle_id=bitstream.bundle_id)
    return refine_message(refine).SerializeToString()


def _command() -> bytes:
    command = fleet_pb2.Command(command_id="refine-3")
    command.refine_frame.sequence, command.refine_frame.state = 3, 4
    command.refine_frame.bundle_short_id = b"bundleid"
    return command.SerializeToString()


@pytest.mark.parametrize(
    "kind", ["frame", "pair", "refine", "layers", "command", "hello", "outcome", "error"]
)
def test_damaged_messages_give_typed_errors(
    kind: str, encoder: EdgeEncoder, feature_encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    rng = random.Random(f"featherwire-{kind}")
    also = ("1" * 64, "2" * 64)
    hello = hello_message(
        Hello("d", "s", bundle_id="0" * 64, labels={"a": "b"}, also_bundle_ids=also)
    )
    error = pb.Error(kind=1, reason="reason", message="text", details={"a": '{"b": [1, 2]}'})
    cases: dict[str, tuple[type[Message], bytes, Callable[[Any], Any]]] = {
        "frame": (ingest_pb2.Frame, _frame(encoder, image), _parse_and_decode(encoder)),
        "pair": (ingest_pb2.Frame, _pair(feature_encoder, encoder, image), parse_frame),
        "refine": (ingest_pb2.Refine, _frame(encoder, image), parse_refine),
        "layers": (ingest_pb2.Refine, _refine(encoder, image), parse_refine),
        "command": (fleet_pb2.Command, _command(), parse_command),
        "hello": (ingest_pb2.Hello, hello.SerializeToString(), parse_hello),
        "outcome": (pb.FrameOutcome, analysis_message().SerializeToString(), outcome_from_message),
        "error": (pb.Error, error.SerializeToString(), error_from_message),
    }
    message_class, data, parse = cases[kind]
    refused = understood = 0
    for _ in range(MUTATIONS):
        damaged = mutate(data, rng)
        started = time.perf_counter()
        try:
            parse(message_class.FromString(damaged))
            understood += 1
        except (DecodeError, FeatherwireError):
            refused += 1
        assert time.perf_counter() - started < 1.0
    assert refused + understood == MUTATIONS
    assert refused > MUTATIONS // 10 or kind == "error"  # else the mutator damages nothing


def test_a_message_from_one_kind_read_as_another_gives_typed_errors() -> None:
    data = analysis_message().SerializeToString()
    for message_class, parse in (
        (ingest_pb2.Frame, parse_frame),
        (ingest_pb2.Refine, parse_refine),
        (ingest_pb2.Hello, parse_hello),
    ):
        with pytest.raises((DecodeError, FeatherwireError)):
            parse(message_class.FromString(data))  # type: ignore[operator]

"""What goes onto the wire comes off it again."""

from __future__ import annotations

import string
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bitstream import Bitstream, Layer, PartialLayer
from shared.errors import (
    BitstreamError,
    BudgetError,
    BundleError,
    FeatherwireError,
    ModelError,
    PhotoError,
    SessionError,
    StorageError,
    TaskError,
)
from shared.proto.featherwire.v1 import ingest_pb2
from shared.proto.featherwire.v1 import types_pb2 as pb
from shared.results import (
    AnalysisResult,
    Box,
    Classification,
    Detection,
    Face,
    Instance,
    ModelInfo,
    Region,
    RleMask,
    TaskResult,
)
from shared.wire import (
    FrameOutcome,
    Picture,
    PictureEncoding,
    PictureRequest,
    error_from_message,
    error_to_message,
)
from shared.wire.failures import is_retryable
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
from shared.wire.results import outcome_from_message, outcome_to_message

# -- strategies: all that the types allow and the wire can carry (float32 coordinates) ----

coordinates = st.floats(-1e5, 1e5, width=32)
scores = st.floats(0, 1, width=32)
times = st.floats(0, 1e9)
texts = st.text(max_size=40)
tasks = st.text(string.ascii_lowercase, min_size=1, max_size=20)
names = st.text(string.ascii_letters + string.digits + "._:-", min_size=1, max_size=128)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
sides = st.integers(16, 8192)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x_min, x_max = sorted((draw(coordinates), draw(coordinates)))
    y_min, y_max = sorted((draw(coordinates), draw(coordinates)))
    return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)


@st.composite
def task_results(draw: st.DrawFn, size: tuple[int, int]) -> TaskResult:
    objects: dict[str, Any] = {"class_id": st.integers(0, 2**32 - 1), "class_name": texts}
    kind = draw(st.sampled_from(["detections", "instances", "faces", "classes", "regions"]))
    masks = st.builds(RleMask, size=st.just(size), counts=texts)
    strategy: st.SearchStrategy[Any] = {
        "detections": st.builds(Detection, box=boxes(), score=scores, **objects),
        "instances": st.builds(Instance, box=boxes(), score=scores, mask=masks, **objects),
        "classes": st.builds(Classification, score=scores, **objects),
        "regions": st.builds(Region, share=scores, mask=masks, **objects),
        "faces": st.builds(
            Face,
            box=boxes(),
            score=scores,
            key_points=st.lists(st.tuples(coordinates, coordinates), max_size=3),
            landmarks=st.lists(st.tuples(coordinates, coordinates, coordinates), max_size=3),
        ),
    }[kind]
    models = st.builds(
        ModelInfo, name=texts, version=texts, sha256=st.none() | hashes, licence=texts
    )
    found = draw(st.lists(strategy, max_size=3))
    if kind == "classes":
        found.sort(key=lambda item: -item.score)
    return TaskResult(
        task=draw(tasks),
        model=draw(st.lists(models, max_size=3)),
        milliseconds=draw(st.dictionaries(texts, times, max_size=3)),
        **{kind: found},
    )


@st.composite
def analyses(draw: st.DrawFn) -> AnalysisResult:
    width, height = draw(sides), draw(sides)
    return AnalysisResult(
        width=width,
        height=height,
        state=draw(st.none() | st.integers(0, 255)),
        bundle_id=draw(st.none() | hashes),
        payload_bytes=draw(st.integers(0, 2**63)),
        bits_per_pixel=draw(times),
        tasks=draw(st.dictionaries(tasks, task_results((height, width)), max_size=3)),
        milliseconds=draw(st.dictionaries(texts, times, max_size=4)),
    )


json_values = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20)
errors = st.builds(
    lambda kind, reason, message, details: kind(reason, message, **details),
    st.sampled_from(
        [
            BitstreamError,
            BudgetError,
            BundleError,
            FeatherwireError,
            ModelError,
            PhotoError,
            SessionError,
            TaskError,
        ]
    ),
    st.text(string.ascii_lowercase, min_size=1, max_size=20),
    st.text(max_size=60),
    st.dictionaries(
        st.text(string.ascii_lowercase, min_size=1, max_size=8).map("d_".__add__),
        json_values,
        max_size=4,
    ),
)
requests = st.builds(PictureRequest, st.sampled_from(PictureEncoding), st.integers(0, 100))


@st.composite
def bitstreams(draw: st.DrawFn) -> Bitstream:
    payloads = draw(st.lists(st.binary(max_size=30), min_size=1, max_size=6))
    state = draw(st.integers(0, 100))
    layers = tuple(
        Layer(state + len(payloads) - 1 - number, payload)
        for number, payload in enumerate(payloads)
    )
    partial = None
    if state and draw(st.booleans()):
        partial = PartialLayer(state - 1, draw(st.integers(1, 999)), draw(st.binary(max_size=30)))
    return Bitstream(
        draw(st.binary(min_size=8, max_size=8)), draw(sides), draw(sides), state, layers, partial
    )


def same_error(a: FeatherwireError | None, b: FeatherwireError | None) -> bool:
    if a is None or b is None:
        return a is b
    return type(a) is type(b) and a.to_dict() == b.to_dict()


# -- round trips ---------------------------------------------------------------------------------


@given(errors)
def test_errors_keep_class_reason_message_and_details(error: FeatherwireError) -> None:
    assert same_error(error_from_message(error_to_message(error)), error)


def test_what_an_error_knows_besides_comes_back_without_being_said_twice() -> None:
    offset = error_from_message(error_to_message(BitstreamError("cut", "it ends", offset=17)))
    assert isinstance(offset, BitstreamError)
    assert (offset.offset, offset.message) == (17, "it ends (at byte 17)")
    model = error_from_message(error_to_message(ModelError("gone", "no weights", command="do x")))
    assert isinstance(model, ModelError)
    assert (model.command, model.message) == ("do x", "no weights; get it with: do x")


def test_a_huge_error_still_fits_into_metadata() -> None:
    details = {f"name_{number}": "x" * 10_000 for number in range(100)}
    error = FeatherwireError("huge", "m" * 10**6 + "\udcff", **details)
    message = error_to_message(error)
    assert message.ByteSize() < 12_000
    assert error_from_message(message).reason == "huge"


def test_a_peers_error_may_say_anything_and_still_becomes_an_error() -> None:
    message = pb.Error(kind=99, reason="Not A Reason", message="x" * 10**5)
    message.details["ok"] = "[" * 600
    message.details["not ok!"] = "1"
    message.details["reason"] = '"other"'
    error = error_from_message(message)
    assert type(error) is FeatherwireError
    assert error.reason == "unknown"
    assert len(error.message) <= 1000
    assert set(error.details) == {"ok", "reason"}
    assert error_to_message(FeatherwireError("Not A Reason", "m")).reason == "unknown"


def test_errors_worth_a_retry_say_so() -> None:
    assert error_to_message(SessionError("draining", "later")).retryable
    assert is_retryable(SessionError("busy", "later"))
    assert is_retryable(StorageError("disk_full", "later"))
    assert not is_retryable(SessionError("bundle_mismatch", "never"))


@given(analyses(), st.dictionaries(tasks, errors, max_size=2), st.none() | errors)
def test_outcomes_keep_everything(
    analysis: AnalysisResult,
    task_errors: dict[str, FeatherwireError],
    picture_error: FeatherwireError | None,
) -> None:
    picture = Picture(PictureEncoding.WEBP, 17, 8192, b"data") if picture_error is None else None
    outcome = FrameOutcome(
        analysis=analysis, task_errors=task_errors, picture=picture, picture_error=picture_error
    )
    data = outcome_to_message(outcome).SerializeToString()
    back = outcome_from_message(pb.FrameOutcome.FromString(data))
    assert back.analysis == analysis
    assert back.picture == picture
    assert same_error(back.picture_error, picture_error)
    assert back.task_errors.keys() == task_errors.keys()
    assert all(same_error(back.task_errors[name], task_errors[name]) for name in task_errors)


@given(errors)
def test_failed_outcomes_keep_their_error(error: FeatherwireError) -> None:
    back = outcome_from_message(outcome_to_message(FrameOutcome(error=error)))
    assert back.analysis is None
    assert same_error(back.error, error)


def test_an_outcome_is_an_analysis_or_an_error() -> None:
    with pytest.raises(ValueError, match="either"):
        FrameOutcome()


@given(
    st.builds(
        Hello,
        device=names,
        session=names,
        bundle_id=st.none() | hashes,
        can_switch_bundle=st.booleans(),
        last_result_seen=st.integers(0, 2**63 - 1),
        client_version=st.text(max_size=20),
        labels=st.dictionaries(names, st.text(max_size=20), max_size=4),
        also_bundle_ids=st.lists(hashes, max_size=3, unique=True).map(tuple),
    )
)
def test_hello_comes_back(hello: Hello) -> None:
    assert parse_hello(hello_message(hello)) == hello


@given(
    st.integers(1, 2**63 - 1),
    bitstreams(),
    st.sets(st.integers(0, 255), max_size=7),
    st.lists(tasks, max_size=4, unique=True).map(tuple),
    st.none() | requests,
    st.none() | st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)),
)
def test_frames_come_back(
    sequence: int,
    bitstream: Bitstream,
    more: set[int],
    wanted: tuple[str, ...],
    picture: PictureRequest | None,
    captured_at: datetime | None,
) -> None:
    others = tuple(
        replace(bitstream, bundle_id=bytes([n] * 8)) for n in more - set(bitstream.bundle_id)
    )
    frame = Frame(sequence, (bitstream, *others), wanted, picture, captured_at)
    data = frame_message(frame).SerializeToString()
    assert parse_frame(ingest_pb2.Frame.FromString(data)) == frame
    refine = Refine(sequence, bitstream.layers, wanted, picture, bitstream.bundle_id)
    assert parse_refine(refine_message(refine)) == refine

"""Scenes in which little changes, and a server that decodes predicted frames, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.base import Pixels, open_cloud, small_bundle
from shared.bitstream import FORMAT_VERSIONS, Bitstream
from shared.bundle import Bundle
from shared.errors import BitstreamError, FeatherwireError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import FrameOutcome
from shared.wire.features import parse_features
from shared.wire.formats import from_index
from tests.support.scripted_server import Requests, ScriptedServer, answer, welcome

Responses = Iterator[ingest_pb2.ConnectResponse]


def predicting_bundle(folder: Path) -> Bundle:
    """Of the null codec, which replaces rectangles of the frame before."""
    return small_bundle("null", folder)


def scene(count: int, *, first: int = 0) -> Iterator[Pixels]:
    """Pictures of 64x48 in which a square moves along."""
    ground = np.random.default_rng(0).integers(0, 255, (3, 4, 3)).repeat(16, 0).repeat(16, 1)
    for number in range(first, first + count):
        picture: NDArray[np.uint8] = ground.astype(np.uint8)
        left = 8 * (number % 7)
        picture[16:24, left : left + 8] = 255 - 20 * (number % 5)
        yield picture


_BITS = 16


def numbered(number: int) -> Pixels:
    """A picture of 128x64 that shows its number, in blocks of black and white."""
    picture = next(scene(1)).repeat(2, 1)[:, :128]
    picture = np.concatenate([picture, picture[:16]])
    for bit in range(_BITS):
        picture[56:64, 8 * bit : 8 * bit + 8] = 255 * (number >> bit & 1)
    return np.ascontiguousarray(picture)


def number_of(picture: Pixels) -> int:
    """The number that a decoded picture shows; -1 where the picture is not such a one."""
    number = shown_in(picture)
    away = np.abs(picture.astype(int) - numbered(number)).mean()
    return number if away < 12 else -1


def restless(number: int) -> Pixels:
    """A picture of 128x64 that shows its number, half of it other noise than in the one before."""
    picture = numbered(number)
    slow, quick = np.random.default_rng(number // 4), np.random.default_rng(number)
    picture[24:56, :64] = slow.integers(0, 255, (32, 64, 3))
    left = 32 * (number % 3)
    picture[40:56, left : left + 32] = quick.integers(0, 255, (16, 32, 3))
    return picture


def shown_in(picture: Pixels) -> int:
    """The number that a picture shows, whatever else is in it."""
    means = picture[56:64, : 8 * _BITS].reshape(8, _BITS, 8, 3).mean((0, 2, 3))
    return sum(1 << bit for bit in range(_BITS) if means[bit] > 127)


class Decoder:
    """What a server makes of the frames of one session; key frames are noted by sequence."""

    def __init__(self, *bundles: Bundle) -> None:
        self._codecs = {bundle.short_id: open_cloud(bundle) for bundle in bundles}
        self.values: dict[tuple[int, bytes], Any] = {}
        self.keys: list[int] = []
        self.predicted: list[int] = []

    def take(self, frame: ingest_pb2.Frame) -> list[Bitstream]:
        """Decode a frame's bitstreams. Raises BitstreamError where it cannot."""
        found = [parse_features(features) for features in frame.features]
        for one in found:
            reference = None
            if one.reference is not None:
                at = frame.sequence - one.reference.distance, one.bundle_id
                if at not in self.values:
                    raise BitstreamError("reference_lost", f"frame {at[0]} is not here")
                reference = self.values[at]
            values = self._codecs[one.bundle_id].decode(one, reference=reference)
            self.values[frame.sequence, one.bundle_id] = values
        alone = found[0].reference is None
        (self.keys if alone else self.predicted).append(frame.sequence)
        return found

    def photo(self, sequence: int, bundle: Bundle) -> Pixels:
        """The picture of a frame of the null codec."""
        photo: Pixels = self.values[sequence, bundle.short_id].photo
        return photo


def greet(
    hello: ingest_pb2.Hello, *, takes_predicted: bool = True, **values: Any
) -> ingest_pb2.ConnectResponse:
    """A Welcome of a server that decodes predicted frames."""
    return welcome(
        hello, format_versions=FORMAT_VERSIONS, takes_predicted=takes_predicted, **values
    )


def outcome_of(decoder: Decoder, frame: ingest_pb2.Frame) -> FrameOutcome:
    """An error either way: that of the frame, or one that says that it was decoded."""
    try:
        decoder.take(frame)
    except FeatherwireError as error:
        return FrameOutcome(error=error)
    return FrameOutcome(error=FeatherwireError("decoded", "it was decoded"))


def decoding_server(
    decoder: Decoder, *, takes_predicted: bool = True, accepted: Sequence[str] = ()
) -> ScriptedServer:
    """Answers every frame once it was decoded. accepted: ids of bundles."""
    short_ids = [bytes.fromhex(one[:16]) for one in accepted]

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        yield greet(hello, takes_predicted=takes_predicted, accepted_bundle_ids=accepted)
        for request in requests:
            if request.WhichOneof("message") == "frame":
                frame = request.frame
                for features in frame.features:
                    from_index(features, short_ids)
                yield from answer(frame, frame.sequence, outcome_of(decoder, frame))

    return ScriptedServer(script)

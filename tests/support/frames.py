"""Frames for a spool: real bitstreams of the tiny bundle, or layers of a chosen size."""

from __future__ import annotations

from shared.bitstream import Bitstream, Layer
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.features import features_message

BUNDLE_ID = b"01234567"


def layered(sizes: list[int], width: int = 64) -> Bitstream:
    """A bitstream whose layers, coarsest first, have these payloads in bytes."""
    finest = 0
    layers = tuple(
        Layer(finest + len(sizes) - 1 - number, bytes([number]) * size)
        for number, size in enumerate(sizes)
    )
    return Bitstream(BUNDLE_ID, width, 64, finest, layers)


def frame(*bitstreams: Bitstream) -> ingest_pb2.Frame:
    """A frame without a sequence."""
    return ingest_pb2.Frame(features=[features_message(one) for one in bitstreams])

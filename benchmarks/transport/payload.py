"""Frames of a chosen size: layers of random bytes, which no codec ever sees."""

from __future__ import annotations

import random

from shared.bitstream import Bitstream, Layer
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.features import features_message

SIDE = 512
"""Width and height in pixels of the picture that a frame says it is of."""


def frame_of(bundle: Bundle, payload_bytes: int) -> ingest_pb2.Frame:
    """A frame of ``bundle`` with so many bytes of layers, every state of it, and no tasks."""
    rng = random.Random(payload_bytes)
    states = range(bundle.manifest.coarsest_state, -1, -1)
    share = payload_bytes // len(states)
    layers = [Layer(state, rng.randbytes(share)) for state in states[:-1]]
    layers.append(Layer(0, rng.randbytes(payload_bytes - share * len(layers))))
    bitstream = Bitstream(bundle.short_id, SIDE, SIDE, 0, tuple(layers))
    return ingest_pb2.Frame(features=[features_message(bitstream)])

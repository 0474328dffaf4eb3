"""A queued frame at a coarser state: its last layers are cut off, nothing is encoded again."""

from __future__ import annotations

from shared.proto.featherwire.v1 import ingest_pb2, types_pb2


def can_coarsen(frame: ingest_pb2.Frame) -> bool:
    """Whether ``coarser`` would find something to cut."""
    return any(_cuttable(features) for features in frame.features)


def coarser(frame: ingest_pb2.Frame) -> ingest_pb2.Frame | None:
    """The frame without the last layer of its largest description that has more than one.

    A partial layer goes first. None when each has a single layer, as bundles of single-state
    chains make them.
    """
    cut = ingest_pb2.Frame()
    cut.CopyFrom(frame)
    candidates = [features for features in cut.features if _cuttable(features)]
    if not candidates:
        return None
    largest = max(candidates, key=lambda features: features.ByteSize())
    if largest.HasField("partial"):
        largest.ClearField("partial")
    else:
        del largest.layers[-1]
        largest.state = largest.layers[-1].state
    return cut


def _cuttable(features: types_pb2.Features) -> bool:
    return len(features.layers) > 1 or features.HasField("partial")

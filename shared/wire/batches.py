"""Messages that go out together: a batch's bytes out of its messages' bytes.

A batch is made of bytes because messages that are put into one are copied several times.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from shared.bitstream import varint
from shared.proto.featherwire.v1 import ingest_pb2

_LENGTH_DELIMITED = 2


def serialised(requests: Sequence[ingest_pb2.ConnectRequest]) -> bytes:
    """One request as it is, several as a ``RequestBatch``, of 2**28 bytes at most."""
    if len(requests) == 1:
        return requests[0].SerializeToString()
    inside = b"".join(
        part for one in requests for part in _field(_REQUESTS, one.SerializeToString())
    )
    return b"".join(_field(_BATCH, inside))


def _tag(message: type[Message], field: str) -> bytes:
    return varint.encode(message.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)


def _field(tag: bytes, value: bytes) -> tuple[bytes, bytes, bytes]:
    return tag, varint.encode(len(value)), value


_BATCH = _tag(ingest_pb2.ConnectRequest, "batch")
_REQUESTS = _tag(ingest_pb2.RequestBatch, "requests")

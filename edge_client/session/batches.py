"""Requests that wait together go out together."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.transport import BATCH_BYTES, BATCH_MESSAGES

Batch = list[ingest_pb2.ConnectRequest]
Requests = queue.SimpleQueue[ingest_pb2.ConnectRequest | None]


def batched(requests: Requests, taken: Callable[[], bool]) -> Iterator[Batch]:
    """What is in the queue, in order, until None: together once the server has ``taken`` to that.

    Nothing waits for a batch to fill: it is what came while gRPC took the one before.
    """
    ahead: ingest_pb2.ConnectRequest | None = None
    ended = False
    while not ended:
        first, ahead = ahead or requests.get(), None
        if first is None:
            return
        batch, size = [first], first.ByteSize()
        while taken() and size <= BATCH_BYTES and len(batch) < BATCH_MESSAGES:
            try:
                request = requests.get_nowait()
            except queue.Empty:
                break
            if request is None:
                ended = True
                break
            size += request.ByteSize()
            if size > BATCH_BYTES:
                ahead = request
                break
            batch.append(request)
        yield batch

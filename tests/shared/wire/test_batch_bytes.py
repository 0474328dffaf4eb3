"""A batch that was made of bytes is the message that it stands for."""

from __future__ import annotations

import pytest

from shared.proto.featherwire.v1 import ingest_pb2, types_pb2
from shared.wire.device_protocol import together
from shared.wire.transport import CONNECT


def frame(sequence: int, payload: bytes) -> ingest_pb2.ConnectRequest:
    layer = types_pb2.Layer(state=3, payload=payload)
    features = types_pb2.Features(width=8, height=8, layers=[layer])
    return ingest_pb2.ConnectRequest(frame=ingest_pb2.Frame(sequence=sequence, features=[features]))


def bytes_of(requests: list[ingest_pb2.ConnectRequest]) -> bytes:
    return together([one.SerializeToString() for one in requests])


@pytest.mark.parametrize("sizes", [(0, 1), (100, 127, 128), (20_000, 0, 70_000), (3,) * 256])
def test_several_requests_are_a_batch_of_them(sizes: tuple[int, ...]) -> None:
    requests = [frame(number, b"x" * size) for number, size in enumerate(sizes)]
    requests.insert(1, ingest_pb2.ConnectRequest(heartbeat=ingest_pb2.Heartbeat(nonce=2**63)))
    requests.insert(2, ingest_pb2.ConnectRequest())
    batch = ingest_pb2.RequestBatch(requests=requests)
    assert ingest_pb2.ConnectRequest.FromString(bytes_of(requests)) == ingest_pb2.ConnectRequest(
        batch=batch
    )


def test_one_request_stays_as_it_is() -> None:
    request = frame(7, b"payload")
    assert ingest_pb2.ConnectRequest.FromString(bytes_of([request])) == request


def test_the_method_is_the_services() -> None:
    service = ingest_pb2.DESCRIPTOR.services_by_name["IngestService"]
    assert f"/{service.full_name}/{service.methods_by_name['Connect'].name}" == CONNECT

"""A gRPC server that says exactly what a test wants, for what a real one does not do on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc

from shared.proto.featherwire.v1 import ingest_pb2, ingest_pb2_grpc
from shared.wire import PROTOCOL_VERSION
from shared.wire.features import header_of
from shared.wire.results import outcome_to_message

Requests = Iterator[ingest_pb2.ConnectRequest]
Script = Callable[[int, ingest_pb2.Hello, Requests], Iterator[ingest_pb2.ConnectResponse]]


class ScriptedServer(ingest_pb2_grpc.IngestServiceServicer):
    """``script(number, hello, requests)`` yields what the stream of that number answers."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.hellos: list[ingest_pb2.Hello] = []
        self._server = grpc.server(ThreadPoolExecutor(8))
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Connect(self, requests: Requests, context: Any) -> Iterator[ingest_pb2.ConnectResponse]:
        hello = next(requests).hello
        self.hellos.append(hello)
        yield from self._script(len(self.hellos), hello, requests)

    def __enter__(self) -> ScriptedServer:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.stop(0).wait()


def say(**message: Any) -> ingest_pb2.ConnectResponse:
    """One message by its field."""
    return ingest_pb2.ConnectResponse(**message)


def welcome(hello: ingest_pb2.Hello, **values: Any) -> ingest_pb2.ConnectResponse:
    """A Welcome that takes the client's bundle."""
    return say(
        welcome=ingest_pb2.Welcome(
            **{
                "protocol_version": PROTOCOL_VERSION,
                "credits": 4,
                "bundle_id": hello.bundle_id,
                **values,
            }
        )
    )


def answer(
    frame: ingest_pb2.Frame, result_id: int, outcome: Any
) -> Iterator[ingest_pb2.ConnectResponse]:
    """Ack, result and credit of a frame."""
    first = frame.features[0]
    key: dict[str, Any] = {
        "sequence": frame.sequence,
        "state": header_of(first).state,  # where it is in the container, the field is empty
        "bundle_short_id": first.bundle_short_id,
    }
    yield say(ack=ingest_pb2.Ack(**key))
    yield say(
        result=ingest_pb2.Result(result_id=result_id, outcome=outcome_to_message(outcome), **key)
    )
    yield say(credit=ingest_pb2.Credit(credits=1))

"""A client that says exactly what a test wants, well-mannered or not, over whatever."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import grpc

from shared.bitstream import Bitstream
from shared.proto.featherwire.v1 import ingest_pb2, ingest_pb2_grpc
from shared.rpc.channel import open_channel
from shared.wire.requests import Frame, Hello, frame_message, hello_message


def _together(bitstreams: Any) -> tuple[Bitstream, ...]:
    return (bitstreams,) if isinstance(bitstreams, Bitstream) else tuple(bitstreams)


class Client(ABC):
    """One Connect stream; ``received`` grows as the server speaks."""

    def __init__(self) -> None:
        self.received: list[ingest_pb2.ConnectResponse] = []
        self.error: Exception | None = None
        self.ended = threading.Event()

    @abstractmethod
    def put(self, request: ingest_pb2.ConnectRequest) -> None:
        """Send a message."""

    @abstractmethod
    def half_close(self) -> None:
        """Send nothing more."""

    @abstractmethod
    def close(self) -> None:
        """Go away."""

    def hello(self, **changes: Any) -> ingest_pb2.Welcome:
        """Say Hello and wait for Welcome."""
        values = {"device": "test-device", "session": "test-session", "can_switch_bundle": True}
        self.say(hello=hello_message(Hello(**(values | changes))))
        return self.wait_for("welcome")[0]

    def say(self, **message: Any) -> None:
        self.put(ingest_pb2.ConnectRequest(**message))

    def frame(self, sequence: int, bitstream: Any, **fields: Any) -> None:
        self.say(frame=frame_message(Frame(sequence, _together(bitstream), **fields)))

    def all(self, kind: str) -> list[Any]:
        """Messages of one kind so far."""
        return [getattr(m, kind) for m in self.received if m.WhichOneof("message") == kind]

    def wait_for(self, kind: str, count: int = 1, timeout_s: float = 20) -> list[Any]:
        """The first ``count`` messages of one kind."""
        self.wait_until(lambda: len(self.all(kind)) >= count, timeout_s)
        return self.all(kind)[:count]

    def wait_for_credits(self, count: int) -> None:
        """Wait until so many were granted after Welcome's, in one message or several."""
        self.wait_until(lambda: sum(one.credits for one in self.all("credit")) >= count)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"in vain; received {self.received}, {self.error}"
            assert not self.ended.is_set() or condition(), f"ended: {self.received}, {self.error}"
            time.sleep(0.002)


class RawClient(Client):
    """Over a socket."""

    def __init__(
        self, address: str, *, read: bool = True, channel: grpc.Channel | None = None
    ) -> None:
        super().__init__()
        self.channel = channel or open_channel(address)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stub = ingest_pb2_grpc.IngestServiceStub(self.channel)
        self.call = stub.Connect(iter(self._requests.get, None))
        self.error: grpc.RpcError | None = None
        if read:
            threading.Thread(target=self._read, daemon=True).start()

    def put(self, request: ingest_pb2.ConnectRequest) -> None:
        self._requests.put(request)

    def half_close(self) -> None:
        self._requests.put(None)

    def close(self) -> None:
        self.call.cancel()
        self._requests.put(None)
        self.channel.close()

    def _read(self) -> None:
        try:
            for message in self.call:
                self.received.append(message)
        except grpc.RpcError as error:
            self.error = error
        finally:
            self.ended.set()
            self._requests.put(None)

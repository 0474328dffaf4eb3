"""One Connect stream: opened with Hello and Welcome, kept alive, and ended once.

Two threads besides the callers': gRPC takes requests from a queue, and a reader hands out what the
server sends. All state is under one condition.
"""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod

import grpc

from edge_client.session.batches import batched
from edge_client.session.listener import Listener
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.rpc.errors import error_from_call
from shared.wire import PROTOCOL_VERSION
from shared.wire.batches import serialised
from shared.wire.requests import Hello, hello_message
from shared.wire.transport import CONNECT, HEARTBEAT_TIME_S, HEARTBEAT_TIMEOUT_S

MAX_CREDITS = 4096


class Stream(ABC):
    """What is said on it is for the class above to know."""

    def __init__(
        self,
        channel: grpc.Channel,
        server: str,
        hello: Hello,
        changed: threading.Condition,
        listener: Listener | None,
        timeout_s: float,
    ) -> None:
        """Say Hello and wait for Welcome. Raises ``SessionError`` when that does not come."""
        self.server = server
        self._changed = changed
        self._listener = listener
        self._heard_at = time.monotonic()
        self._beat_at: float | None = None
        self._welcome: ingest_pb2.Welcome | None = None
        self._failure: FeatherwireError | None = None
        self._draining = False
        self._closing = False
        self._requests: queue.SimpleQueue[ingest_pb2.ConnectRequest | None] = queue.SimpleQueue()
        self.put(ingest_pb2.ConnectRequest(hello=hello_message(hello)))
        connect = channel.stream_stream(
            CONNECT,
            request_serializer=serialised,
            response_deserializer=ingest_pb2.ConnectResponse.FromString,
        )
        self._call = connect(batched(self._requests, self._takes_batches))
        self._reader = threading.Thread(target=self._read, name="featherwire-reader", daemon=True)
        self._reader.start()
        try:
            self.welcome = self._wait_for_welcome(timeout_s)
        except BaseException:
            self.close(timeout_s=0)
            raise

    # -- for the class above to say --------------------------------------------------------------

    @abstractmethod
    def _busy(self) -> bool:
        """Whether an answer is awaited. The lock is held."""

    @abstractmethod
    def _take(self, response: ingest_pb2.ConnectResponse) -> None:
        """The server has said something."""

    @abstractmethod
    def _welcomed(self, welcome: ingest_pb2.Welcome) -> None:
        """The stream is open. The lock is held."""

    @abstractmethod
    def _end(self, error: FeatherwireError) -> None:
        """The stream is over."""

    # -- its state -------------------------------------------------------------------------------

    @property
    def failure(self) -> FeatherwireError | None:
        """Why the stream has ended, once it has."""
        return self._failure

    @property
    def draining(self) -> bool:
        """The server takes no more frames and will soon end the stream."""
        return self._draining

    def put(self, request: ingest_pb2.ConnectRequest) -> None:
        """Send what costs no credit."""
        if self._listener is not None:
            self._listener.posted(None, request.ByteSize(), frame=False)
        self._requests.put(request)

    def raise_unless_open(self) -> None:
        """Raise ``SessionError`` where nothing more may be sent."""
        if self._failure is not None:
            raise self._failure
        if self._draining:
            raise draining(self.server)
        if self._closing:
            raise SessionError("closed", "this session is closed")

    def beat(self) -> None:
        """Keep an idle stream alive: ask for an answer, and end a stream that gives none.

        To be called about every second. Nothing is asked of a stream with frames in flight, whose
        answer may wait behind them; the transport's own keepalive watches those.
        """
        now = time.monotonic()
        with self._changed:
            if self._busy() or self._failure is not None:
                self._beat_at = None
            elif self._beat_at is None:
                if now - self._heard_at >= HEARTBEAT_TIME_S:
                    self._beat_at = now
                    beat = ingest_pb2.Heartbeat(nonce=int(now * 1e3))
                    self.put(ingest_pb2.ConnectRequest(heartbeat=beat))
            elif self._heard_at >= self._beat_at:
                self._beat_at = None
            elif now - self._beat_at >= HEARTBEAT_TIMEOUT_S:
                self._failure = SessionError(
                    "connection_lost", f"{self.server} left a heartbeat unanswered"
                )
                self._call.cancel()

    def close(self, timeout_s: float = 10.0) -> None:
        """Say Bye, give frames in flight ``timeout_s`` to come back, and end the stream."""
        with self._changed:
            self._closing = True
        self.put(ingest_pb2.ConnectRequest(bye=ingest_pb2.Bye()))
        self._requests.put(None)
        self._reader.join(timeout_s)
        self._call.cancel()
        self._reader.join(5.0)

    # -- receiving -------------------------------------------------------------------------------

    def _wait_for_welcome(self, timeout_s: float) -> ingest_pb2.Welcome:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._welcome is None:
                if self._failure is not None:
                    raise self._failure
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0:
                    raise SessionError(
                        "unreachable", f"{self.server} did not say Welcome within {timeout_s:g} s"
                    )
                self._changed.wait(remaining_s)
            return self._welcome

    def _read(self) -> None:
        try:
            for response in self._call:
                self._heard_at = time.monotonic()
                if response.HasField("batch"):
                    for one in response.batch.responses:
                        self._take(one)
                else:
                    self._take(response)
            self._end(self._reason_of_end())
        except grpc.RpcError as error:
            self._end(error_from_call(error, self.server))
        except FeatherwireError as error:
            self._end(error)
            self._call.cancel()
        finally:
            self._requests.put(None)  # lets gRPC's own thread end

    def _takes_batches(self) -> bool:
        return self._welcome is not None and self._welcome.takes_batches

    def _reason_of_end(self) -> SessionError:
        if self._draining:
            return SessionError("draining", f"{self.server} has stopped")
        if self._closing:
            return SessionError("closed", "this session is closed")
        return SessionError("connection_lost", f"{self.server} has ended the stream")

    def _take_welcome(self, welcome: ingest_pb2.Welcome) -> None:
        if self._welcome is not None:
            raise protocol_error("a second Welcome")
        if welcome.protocol_version != PROTOCOL_VERSION:
            raise SessionError(
                "unsupported_version",
                f"{self.server} speaks protocol version {welcome.protocol_version}, this client "
                f"{PROTOCOL_VERSION}",
            )
        if welcome.credits > MAX_CREDITS:
            raise protocol_error(f"{welcome.credits} credits")
        with self._changed:
            self._welcomed(welcome)
            self._welcome = welcome
            self._changed.notify_all()


def draining(server: str) -> SessionError:
    """What is said when the server takes no more."""
    return SessionError("draining", f"{server} is about to stop and takes no frames")


def protocol_error(what: str) -> SessionError:
    """What is said of a server that says what it may not."""
    return SessionError("invalid_message", f"the server broke the protocol: {what}")

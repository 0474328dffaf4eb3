"""A device that sends frames of a chosen size, as fast as credits come."""

from __future__ import annotations

import random
import time
from types import TracebackType

from shared.bitstream import Bitstream, Layer
from shared.bundle import Bundle
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.rpc.channel import open_async_channel
from shared.rpc.device_client import DeviceClient, connect
from shared.wire.device_events import Acknowledged, Answered, Event
from shared.wire.device_protocol import DeviceProtocol
from shared.wire.features import features_message
from shared.wire.formats import WRITTEN
from shared.wire.requests import Hello

SIDE = 512
"""Width and height in pixels that a frame claims for its picture."""


class Device:
    """One session: sends frames as credits allow, and counts what comes back.

    ``latencies_s``: from a frame's sending to its result.
    """

    def __init__(self, address: str, session: str, *, device: str = "bench") -> None:
        self.acks: list[int] = []
        self.results: list[int] = []
        self.errors: list[str] = []
        """Reasons of results that are errors."""
        self.latencies_s: list[float] = []
        self._unacknowledged: set[int] = set()
        self._protocol = DeviceProtocol[None](
            Hello(
                device,
                session,
                can_switch_bundle=True,
                takes_batches=True,
                format_versions=WRITTEN,
            )
        )
        self._channel = open_async_channel(address)
        self._stream = DeviceClient(connect(self._channel), self._protocol, self._note)

    @property
    def sequence(self) -> int:
        """Of the frame that was sent last, or up to which the server had all before."""
        return self._protocol.last_sequence

    @property
    def welcome(self) -> ingest_pb2.Welcome:
        """The server's."""
        assert self._protocol.welcome is not None, "only an open session has been welcomed"
        return self._protocol.welcome

    async def __aenter__(self) -> Device:
        """Say Hello, and have Welcome. Raises ConnectionError with the reason of a refusal."""
        try:
            await self._stream.open()
        except FeatherwireError as error:
            await self._channel.close()
            raise ConnectionError(error.reason) from None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stream.close()
        await self._channel.close()

    async def send(self, frame: ingest_pb2.Frame) -> int:
        """Send a frame under the next sequence, once there is credit; returns that.

        Raises ConnectionError with the reason for which the stream has ended.
        """
        while self._protocol.credits == 0:
            await self._wait()
        frame.sequence = self.sequence + 1
        try:
            self._stream.send(frame, None)
        except FeatherwireError as error:
            raise ConnectionError(error.reason) from None
        self._unacknowledged.add(frame.sequence)
        return frame.sequence

    async def settled(self) -> None:
        """Wait until every frame has its ack and its result."""
        while self._protocol.busy or self._unacknowledged:
            await self._wait()

    def beat(self) -> None:
        """Send a heartbeat; its answer is not awaited."""
        self._protocol.ask(time.monotonic())
        self._stream.flush()

    async def _wait(self) -> None:
        try:
            await self._stream.wait()
        except FeatherwireError as error:
            raise ConnectionError(error.reason) from None

    def _note(self, event: Event[None]) -> None:
        match event:
            case Acknowledged(key=(sequence, _, _)):
                self.acks.append(sequence)
                self._unacknowledged.discard(sequence)
            case Answered(result=result, sent=sent) if sent is not None:
                if result.result_id == 0:  # refused, so there is no ack
                    self._unacknowledged.discard(sent.sequence)
                self.results.append(sent.sequence)
                if result.outcome.HasField("error"):
                    self.errors.append(result.outcome.error.reason)
                self.latencies_s.append(time.monotonic() - sent.sent_at)
            case _:
                pass


def frame_of(bundle: Bundle, payload_bytes: int) -> ingest_pb2.Frame:
    """A frame of ``bundle`` with so many bytes of layers, every state of it, and no tasks.

    Its layers are random bytes, which no codec ever sees.
    """
    rng = random.Random(payload_bytes)
    states = range(bundle.manifest.coarsest_state, -1, -1)
    share = payload_bytes // len(states)
    layers = [Layer(state, rng.randbytes(share)) for state in states[:-1]]
    layers.append(Layer(0, rng.randbytes(payload_bytes - share * len(layers))))
    bitstream = Bitstream(bundle.short_id, SIDE, SIDE, 0, tuple(layers))
    return ingest_pb2.Frame(features=[features_message(bitstream)])

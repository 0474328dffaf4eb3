"""What a client says after its Hello, and who it goes to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from cloud_server.fleet.fleet import DeviceConnection
from cloud_server.ingest.credits import Credits
from cloud_server.ingest.intake import Intake
from cloud_server.ingest.opening import from_log
from cloud_server.ingest.sessions import Session
from shared.errors import SessionError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2, types_pb2
from shared.wire import error_from_message
from shared.wire.features import file_bytes

OPEN_COMMANDS = 256
"""Commands whose replies are still listened for; the oldest are forgotten."""


class Messages:
    """Takes messages one by one; frames are gathered until ``flush``."""

    def __init__(
        self,
        session: Session,
        link: DeviceConnection,
        intake: Intake,
        credits: Credits,
        *,
        send: Callable[[ingest_pb2.ConnectResponse], None],
        finish: Callable[[], None],
        logger: Any,
    ) -> None:
        """send: queues an answer. finish: the client has said Bye."""
        self._session = session
        self._link = link
        self._intake = intake
        self._credits = credits
        self._send = send
        self._finish = finish
        self._log = logger
        self._commands: deque[str] = deque(maxlen=OPEN_COMMANDS)
        # Frames since the last flush, their bytes, and what the last one carried.
        self._frames, self._bytes = 0, 0
        self._features: Sequence[types_pb2.Features] = ()

    def commanded(self, command_id: str) -> None:
        """The client was asked to refine a frame by the server itself, and will reply."""
        self._commands.append(command_id)

    def flush(self) -> None:
        """Let the log have the frames that were taken, and the fleet know of them."""
        if self._frames:
            features = self._features
            self._link.frames(
                self._frames,
                message_bytes=self._bytes,
                state=features[0].state if features else 0,
                bits_per_pixel=_bits_per_pixel(features),
            )
            self._frames, self._bytes = 0, 0
            self._intake.flush(self._session)

    async def take(self, request: ingest_pb2.ConnectRequest) -> None:
        """Take one message. Raises ``SessionError`` for what ends the stream."""
        match request.WhichOneof("message"):
            case "frame":
                await self._take_frame(request.frame)
            case "refine":
                self._credits.spend()
                self._credits.asked()
                serialised = request.refine.SerializeToString()
                self._link.frames(1, message_bytes=len(serialised))
                await self._intake.take_refine(self._session, request.refine, serialised)
            case "heartbeat":
                if not request.heartbeat.reply:
                    beat = ingest_pb2.Heartbeat(nonce=request.heartbeat.nonce, reply=True)
                    self._send(ingest_pb2.ConnectResponse(heartbeat=beat))
            case "bye":
                self._finish()
            case "command_reply":
                await self._take_reply(request.command_reply)
            case "status":
                self._link.status(request.status)
            case "result_credit":
                pass  # this server limits results by the frames' credits
            case "hello":
                raise SessionError("invalid_message", "Hello may only open a stream")
            case _:
                raise SessionError("invalid_message", "a message of no known kind")

    async def _take_frame(self, frame: ingest_pb2.Frame) -> None:
        self._credits.spend()
        if frame.tasks or frame.HasField("picture"):
            self._credits.asked()
        serialised = frame.SerializeToString()
        self._frames += 1
        self._bytes += len(serialised)
        self._features = frame.features
        await self._intake.take_frame(self._session, frame, serialised)

    async def _take_reply(self, reply: fleet_pb2.CommandReply) -> None:
        if reply.command_id not in self._commands:
            await from_log(self._link.replied(reply), self._log)
            return
        self._commands.remove(reply.command_id)
        if reply.HasField("error"):
            error = error_from_message(reply.error)
            self._log.info("command_refused", command=reply.command_id, reason=error.reason)


def _bits_per_pixel(features: Sequence[types_pb2.Features]) -> float:
    """Of a frame as files; 0 where there are none, or no pixels."""
    pixels = features[0].width * features[0].height if features else 0
    size_bytes = sum(file_bytes(one) for one in features)
    return 8 * size_bytes / pixels if pixels else 0.0

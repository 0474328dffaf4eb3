"""A simulated device: one session over as many connections as it takes.

It keeps to the protocol as a camera would: frames wait for credit, what a broken connection left
open is sent again, results are asked for from the last one seen. A frame that is due while there is
no credit is skipped, as a camera's buffer is short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from cloud_server.loadtest.channel import OpenChannel, error_of
from cloud_server.loadtest.streams import check_accepted
from cloud_server.loadtest.tally import Tally
from shared.backoff import Backoff
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2, ingest_pb2_grpc, types_pb2
from shared.wire import error_from_message, error_to_message
from shared.wire.failures import is_retryable
from shared.wire.features import file_bytes
from shared.wire.requests import Hello, hello_message

OPEN_TIMEOUT_S = 20.0
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0

Requests = asyncio.Queue[ingest_pb2.ConnectRequest | None]


@dataclass(slots=True)
class _Sent:
    """A frame on its way. ``at``: when it was first sent, by ``time.perf_counter``."""

    request: ingest_pb2.ConnectRequest
    at: float
    measured: bool
    acknowledged: bool = False


class SimulatedDevice:
    """One device. ``run`` sends until ``stop`` is set, then waits for what is still open."""

    def __init__(
        self,
        open_channel: OpenChannel,
        streams: Sequence[types_pb2.Features],
        tally: Tally,
        *,
        device: str,
        session: str,
        tasks: Sequence[str],
        interval_s: float,
        offset: int = 0,
    ) -> None:
        """interval_s: between frames; 0 is as fast as credits come. offset: first stream."""
        self._open_channel, self._streams, self._tally = open_channel, streams, tally
        self._device, self._session = device, session
        self._tasks, self._interval_s = tuple(tasks), interval_s
        self._next = offset
        self._due = time.perf_counter()
        self._sequence = 0
        self._open: dict[int, _Sent] = {}
        self._last_result = 0
        self._credits = 0
        self._said_bye = False
        self._changed = asyncio.Event()
        self._backoff = Backoff(FIRST_DELAY_S, LONGEST_DELAY_S)

    async def run(self, stop: asyncio.Event, grace_s: float) -> None:
        """Send until ``stop``; frames without a result ``grace_s`` seconds later are lost."""
        sending = asyncio.create_task(self._run(stop))
        try:
            await stop.wait()
            await asyncio.wait_for(sending, grace_s)
        except TimeoutError:
            pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            self._tally.lost += len(self._open)

    async def _run(self, stop: asyncio.Event) -> None:
        while not stop.is_set() or self._open:
            try:
                await self._connection(stop)
            except FeatherwireError as error:
                self._tally.stream_errors[error.reason] += 1
                if not is_retryable(error):
                    self._tally.gave_up += 1
                    return
                await asyncio.sleep(self._backoff.next_s())

    async def _connection(self, stop: asyncio.Event) -> None:
        """One connection, to its end in good order. Raises ``FeatherwireError``."""
        async with self._open_channel() as channel:
            call: Any = ingest_pb2_grpc.IngestServiceStub(channel).Connect()  # type: ignore[arg-type]
            outbox: Requests = asyncio.Queue()
            writer: asyncio.Task[None] | None = None
            reader: asyncio.Task[None] | None = None
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    await self._hello(call, outbox)
                self._tally.connected += 1
                try:
                    writer = asyncio.create_task(_write(call, outbox))
                    reader = asyncio.create_task(self._read(call, outbox))
                    await self._send(stop, outbox, reader)
                    outbox.put_nowait(None)
                    await reader  # which knows why a stream ended, if it was not the device
                finally:
                    self._tally.connected -= 1
            except TimeoutError:
                raise SessionError("unreachable", "the server did not answer in time") from None
            except grpc.aio.AioRpcError as error:
                raise error_of(error) from None
            finally:
                for task in (writer, reader):
                    if task is not None:
                        task.cancel()
                call.cancel()
                await asyncio.gather(*filter(None, (writer, reader)), return_exceptions=True)

    async def _hello(self, call: Any, outbox: Requests) -> None:
        """Open the session, and take up what the connection before left open."""
        hello = Hello(
            self._device, self._session,
            can_switch_bundle=True, last_result_seen=self._last_result, takes_batches=True,
        )  # fmt: skip
        await call.write(ingest_pb2.ConnectRequest(hello=hello_message(hello)))
        first = await call.read()
        if first is grpc.aio.EOF:
            raise SessionError("unreachable", "the server has ended the stream")
        if not first.HasField("welcome"):
            raise error_from_message(first.error)
        welcome = first.welcome
        check_accepted(self._streams, welcome.accepted_bundle_ids or (welcome.bundle_id,))
        self._tally.connections += 1
        self._credits = welcome.credits
        self._sequence = max(self._sequence, welcome.resume_after_sequence)
        for sequence, sent in sorted(self._open.items()):
            if sequence <= welcome.resume_after_sequence:
                self._acknowledge(sent)
            else:
                self._tally.sent_again += 1
                self._credits -= 1
                outbox.put_nowait(sent.request)

    async def _send(
        self, stop: asyncio.Event, outbox: Requests, reader: asyncio.Task[None]
    ) -> None:
        """Frames when they are due, until ``stop`` and their last result; or the stream's end."""
        while not reader.done():
            self._changed.clear()
            if stop.is_set():
                if not self._open:
                    self._said_bye = True
                    outbox.put_nowait(ingest_pb2.ConnectRequest(bye=ingest_pb2.Bye()))
                    return
                await self._wait(reader, None)
                continue
            now = time.perf_counter()
            if self._interval_s and now < self._due:
                await self._wait(reader, self._due - now, stop)
            elif self._credits > 0:
                self._due += self._interval_s
                outbox.put_nowait(self._frame(now))
                await asyncio.sleep(0)
            elif self._interval_s:
                self._due += self._interval_s
                self._tally.skipped += self._tally.measuring
            else:
                await self._wait(reader, None, stop)

    async def _wait(
        self, reader: asyncio.Task[None], timeout_s: float | None, stop: asyncio.Event | None = None
    ) -> None:
        """For a message, the stream's end, ``stop``, or so long."""
        events = [self._changed, *([] if stop is None else [stop])]
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(one.wait()) for one in events]
        try:
            await asyncio.wait(
                {reader, *waits}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()

    def _frame(self, now: float) -> ingest_pb2.ConnectRequest:
        features = self._streams[self._next % len(self._streams)]
        self._next += 1
        self._sequence += 1
        self._credits -= 1
        frame = ingest_pb2.Frame(sequence=self._sequence, features=[features], tasks=self._tasks)
        frame.captured_at.GetCurrentTime()
        request = ingest_pb2.ConnectRequest(frame=frame)
        tally = self._tally
        self._open[self._sequence] = _Sent(request, now, tally.measuring)
        tally.sent += 1
        tally.measured += tally.measuring
        tally.feature_bytes += file_bytes(features)
        return request

    async def _read(self, call: Any, outbox: Requests) -> None:
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                for one in response.batch.responses or (response,):
                    self._take(one, outbox)
                self._changed.set()
        finally:
            self._changed.set()
        if not self._said_bye:
            raise SessionError("draining", "the server has ended the stream")

    def _take(self, response: ingest_pb2.ConnectResponse, outbox: Requests) -> None:
        kind = response.WhichOneof("message")
        if kind == "ack":
            sent = self._open.get(response.ack.sequence)
            if sent is not None:
                self._acknowledge(sent)
        elif kind == "credit":
            self._credits += response.credit.credits
        elif kind == "result":
            self._settle(response.result)
        elif kind == "drain":
            self._credits = -(2**31)  # none here, whatever is returned
        elif kind == "heartbeat" and not response.heartbeat.reply:
            beat = ingest_pb2.Heartbeat(nonce=response.heartbeat.nonce, reply=True)
            outbox.put_nowait(ingest_pb2.ConnectRequest(heartbeat=beat))
        elif kind == "command":
            no = SessionError("unsupported_command", "a simulated device takes no commands")
            reply = ingest_pb2.ConnectRequest()
            reply.command_reply.command_id = response.command.command_id
            reply.command_reply.error.CopyFrom(error_to_message(no))
            outbox.put_nowait(reply)
        elif kind == "error":
            raise error_from_message(response.error)

    def _acknowledge(self, sent: _Sent) -> None:
        if sent.acknowledged:
            return
        sent.acknowledged = True
        self._tally.acknowledged += 1
        if sent.measured:
            self._tally.ack_s.append(time.perf_counter() - sent.at)

    def _settle(self, result: ingest_pb2.Result) -> None:
        """A result ends its frame; one that is replayed after a connection is none that is new."""
        self._backoff.reset()
        if result.result_id:
            if result.result_id <= self._last_result:
                return
            self._last_result = result.result_id
        sent = self._open.pop(result.sequence, None)
        if sent is None:
            self._tally.doubled += 1
            return
        self._tally.results += 1
        if sent.measured:
            self._tally.result_s.append(time.perf_counter() - sent.at)
        errors = [result.outcome.error] if result.outcome.HasField("error") else []
        errors += result.outcome.task_errors.values()
        self._tally.frame_errors.update(error_from_message(error).reason for error in errors)
        self._tally.finished += self._tally.measuring and not errors


async def _write(call: Any, outbox: Requests) -> None:
    while (request := await outbox.get()) is not None:
        await call.write(request)
    await call.done_writing()

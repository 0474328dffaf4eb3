"""A simulated device: one session over as many connections as it takes.

It keeps to the protocol as a camera would: frames wait for credit, what a broken connection left
open is sent again, results are asked for from the last one seen. A frame that is due while there is
no credit is skipped, as a camera's buffer is short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import grpc

from cloud_server.loadtest.tally import Tally
from shared.backoff import Backoff
from shared.bitstream import Bitstream
from shared.cli import read_file
from shared.errors import FeatherwireError, SessionError
from shared.limits import DEFAULT_LIMITS
from shared.proto.featherwire.v1 import ingest_pb2, types_pb2
from shared.rpc.access import Access
from shared.rpc.channel import open_async_channel, open_channel
from shared.rpc.device_client import DeviceClient, connect
from shared.rpc.errors import error_in_metadata
from shared.wire import error_from_message
from shared.wire.device_events import (
    Acknowledged,
    Answered,
    Backlogged,
    CommandReceived,
    Event,
    Resent,
    Sent,
    Welcomed,
)
from shared.wire.device_protocol import DeviceProtocol
from shared.wire.failures import is_retryable
from shared.wire.features import features_message, file_bytes, header_of
from shared.wire.formats import WRITTEN, complete_id, short_ids
from shared.wire.requests import Hello

OPEN_TIMEOUT_S = 20.0
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0

PACKAGED = Path(__file__).with_name("recorded")
"""Photos that packages ship, encoded with the packaged picture bundle; their README says how."""

OpenChannel = Callable[[], grpc.aio.Channel]

_REFUSALS = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


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
        self._tasks, self._interval_s = tuple(tasks), interval_s
        self._next = offset
        self._due = time.perf_counter()
        self._heard_at = 0.0
        self._backoff = Backoff(FIRST_DELAY_S, LONGEST_DELAY_S)
        hello = Hello(
            device,
            session,
            can_switch_bundle=True,
            takes_batches=True,
            format_versions=WRITTEN,
        )
        # Whether a frame was sent while the tally was measuring is what comes back with it.
        self._protocol = DeviceProtocol[bool](hello, remembers=True)

    async def run(self, stop: asyncio.Event, grace_s: float) -> None:
        """Send until ``stop``. Frames without a result are lost once the server has said nothing of
        them, neither a result nor that they are with it, for ``grace_s`` seconds."""
        sending = asyncio.create_task(self._run(stop))
        try:
            await stop.wait()
            self._heard_at = time.monotonic()
            while (left_s := self._heard_at + grace_s - time.monotonic()) > 0:
                if (await asyncio.wait({sending}, timeout=left_s))[0]:
                    sending.result()
                    break
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            self._tally.lost += len(self._protocol.unanswered)

    async def _run(self, stop: asyncio.Event) -> None:
        while not stop.is_set() or self._protocol.busy:
            try:
                await self._connection(stop)
            except FeatherwireError as error:
                # A server that ends a stream in good order is about to stop.
                lost = error.reason == "connection_lost"
                self._tally.stream_errors["draining" if lost else error.reason] += 1
                if not lost and not is_retryable(error):
                    self._tally.gave_up += 1
                    return
                await asyncio.sleep(self._backoff.next_s())

    async def _connection(self, stop: asyncio.Event) -> None:
        """One connection, to its end in good order. Raises ``FeatherwireError``."""
        async with self._open_channel() as channel:
            stream = DeviceClient(connect(channel), self._protocol, self._note, error_of=error_of)
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    await stream.open()
            except TimeoutError:
                raise SessionError("unreachable", "the server did not answer in time") from None
            self._tally.connected += 1
            try:
                await self._send(stream, stop)
            finally:
                self._tally.connected -= 1
                await stream.close()

    async def _send(self, stream: DeviceClient[bool], stop: asyncio.Event) -> None:
        """Frames when they are due, until ``stop`` and their last result; raises why the stream
        ended before that."""
        while True:
            if stop.is_set():
                if not self._protocol.busy:
                    await stream.end()
                    return
                await stream.wait()
                continue
            now = time.perf_counter()
            if self._interval_s and now < self._due:
                await stream.wait(self._due - now, stop)
            elif self._protocol.can_send:
                self._due += self._interval_s
                stream.send(self._frame(), self._tally.measuring)
                await asyncio.sleep(0)
            elif self._interval_s:
                self._due += self._interval_s
                self._tally.skipped += self._tally.measuring
            else:
                await stream.wait(None, stop)

    def _frame(self) -> ingest_pb2.Frame:
        features = self._streams[self._next % len(self._streams)]
        self._next += 1
        frame = ingest_pb2.Frame(features=[features], tasks=self._tasks)
        frame.captured_at.GetCurrentTime()
        tally = self._tally
        tally.sent += 1
        tally.measured += tally.measuring
        tally.feature_bytes += file_bytes(features)
        return frame

    def _note(self, event: Event[bool]) -> None:
        match event:
            case Answered():
                self._heard_at = time.monotonic()
                self._settle(event)
            case Backlogged():
                self._heard_at = time.monotonic()
            case Acknowledged(sent=sent, first=True) if sent is not None:
                self._tally.acknowledged += 1
                if sent.context:
                    self._tally.ack_s.append(time.monotonic() - sent.sent_at)
            case Welcomed(welcome=welcome):
                accepted = welcome.accepted_bundle_ids or (welcome.bundle_id,)
                check_accepted(self._streams, accepted, self._protocol.format_version)
                self._tally.connections += 1
            case Resent():
                self._tally.sent_again += 1
            case CommandReceived(command=command):
                no = SessionError("unsupported_command", "a simulated device takes no commands")
                self._protocol.answer(command.command_id, no)
            case _:
                pass

    def _settle(self, event: Answered[bool]) -> None:
        """A result ends its frame; one that is replayed after a connection is none that is new."""
        self._backoff.reset()
        sent: Sent[bool] | None = event.sent
        if sent is None:
            self._tally.doubled += not event.repeated
            return
        self._tally.results += 1
        if sent.context:
            self._tally.result_s.append(time.monotonic() - sent.sent_at)
        outcome = event.result.outcome
        errors = [outcome.error] if outcome.HasField("error") else []
        errors += outcome.task_errors.values()
        self._tally.frame_errors.update(error_from_message(error).reason for error in errors)
        self._tally.finished += self._tally.measuring and not errors


# -- what devices send ---------------------------------------------------------------------------


def load_streams(files: Sequence[Path] = ()) -> list[types_pb2.Features]:
    """The .fwf files as messages, in order; without any those that are packaged.

    Raises ``FeatherwireError``: what ``read_file`` and ``Bitstream.from_bytes`` do, with the file's
    name.
    """
    return list(map(_load, files or sorted(PACKAGED.glob("*.fwf"))))


def check_accepted(
    streams: Iterable[types_pb2.Features], accepted_bundle_ids: Iterable[str], version: int
) -> None:
    """Raise ``FeatherwireError`` for streams that a server does not take: ``bundle_mismatch``, or
    ``format_unsupported`` for those of a later format than ``version``."""
    accepted = short_ids(accepted_bundle_ids)
    for stream in streams:
        complete_id(stream, accepted)
        if stream.bundle_short_id not in accepted:
            raise FeatherwireError(
                "bundle_mismatch",
                f"the server does not take streams of bundle {stream.bundle_short_id.hex()}: give "
                "--file streams of one that it has",
            )
        if (newer := header_of(stream).version) > version:
            raise FeatherwireError(
                "format_unsupported",
                f"a stream is in format {newer}, the server reads {version}: give --file streams "
                f"that `featherwire-edge truncate --format {version}` has made of them",
            )


def _load(file: Path) -> types_pb2.Features:
    try:
        data = read_file(file, max_bytes=DEFAULT_LIMITS.max_file_bytes)
        return features_message(Bitstream.from_bytes(data))
    except FeatherwireError as error:
        raise FeatherwireError(error.reason, f"{file}: {error.message}") from None


# -- how they connect ----------------------------------------------------------------------------


def opener(address: str, access: Access) -> OpenChannel:
    """Opens channels to ``HOST:PORT``. Raises ``SessionError``: bad_address, bad_tls_files."""
    open_channel(address, access).close()  # what is wrong with them is raised now
    return lambda: open_async_channel(address, access)


def error_of(error: grpc.aio.AioRpcError) -> FeatherwireError:
    """The server's own error when it sent one; else that it is away, or refuses.

    Other than for a real client, whatever else has happened is worth another try.
    """
    if (sent := error_in_metadata(error.trailing_metadata())) is not None:
        return sent
    reason = "refused" if error.code() in _REFUSALS else "unreachable"
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        reason = "busy"  # gRPC's own bound on calls at once
    return SessionError(reason, error.details() or error.code().name)

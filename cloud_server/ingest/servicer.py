"""The calls of IngestService: the stream, and one picture without a stream."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, NoReturn

import grpc
import structlog

from cloud_server.auth.access import caller
from cloud_server.engine import Engine, EngineFrame
from cloud_server.fleet.fleet import Fleet
from cloud_server.fleet.quota import Meter
from cloud_server.ingest.bundles import ServedBundles
from cloud_server.ingest.flow import Share, StreamLimits, Write
from cloud_server.ingest.processing import Processing
from cloud_server.ingest.references import MAX_BYTES, References
from cloud_server.ingest.refinement import RefinePolicy
from cloud_server.ingest.sessions import PictureLimits, SessionRegistry
from cloud_server.ingest.stream import Call, Shared, Stream
from cloud_server.results.log import ResultLog
from cloud_server.results.records import SessionKey
from cloud_server.results.shared_log import SharedLog
from cloud_server.telemetry.metrics import Metrics
from shared.errors import FeatherwireError, SessionError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import ingest_pb2, ingest_pb2_grpc, types_pb2
from shared.rpc.status import abort
from shared.wire import error_to_message
from shared.wire.features import parse_bitstreams
from shared.wire.formats import complete_id, short_ids
from shared.wire.requests import parse_picture_request, parse_tasks
from shared.wire.results import model_to_message, outcome_to_message
from shared.wire.transport import MAX_FRAME_BYTES

if TYPE_CHECKING:
    ConnectContext = grpc.aio.ServicerContext[ingest_pb2.ConnectRequest, ingest_pb2.ConnectResponse]
    AnalyzeContext = grpc.aio.ServicerContext[ingest_pb2.AnalyzeRequest, ingest_pb2.AnalyzeResponse]

_TIMER_SLACK_S = 0.05  # gRPC's timer and the loop's may differ a little


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """The IngestService: admits streams and calls up to a number, and drains them together."""

    def __init__(
        self,
        engine: Engine,
        *,
        log: ResultLog,
        bundles: ServedBundles,
        fleet: Fleet,
        server_version: str,
        max_message_bytes: int,
        max_streams: int = 256,
        max_calls: int = 16,
        stream_limits: StreamLimits | None = None,
        kept_pictures: PictureLimits | None = None,
        picture_limits: Limits = DEFAULT_LIMITS,
        refine_policy: RefinePolicy | None = None,
        metrics: Metrics | None = None,
        share: Share = lambda credits: credits,
        reference_bytes: int = MAX_BYTES,
        reuse_results: bool = True,
    ) -> None:
        """metrics: None counts into metrics that nothing reads. share: of the credits of a stream,
        as many as its device may have while the engine is busy (``FairEngine.share``).
        reference_bytes: of memory for the values that predicted frames refer to.
        reuse_results: whether a frame without a changed value has the result of the one before."""
        self._metrics = metrics or Metrics()
        self._engine = engine
        self._fleet = fleet
        self._short_ids = short_ids(bundles.ids)
        self._stream_limits = stream_limits or StreamLimits()
        self._picture_limits = picture_limits
        self._sessions = SessionRegistry(kept_pictures)
        self.references = References(
            bundles,
            log,
            max_bytes=reference_bytes,
            limits=picture_limits,
            compare=reuse_results,
        )
        self._processing = Processing(
            references=self.references,
            reuse_results=reuse_results,
            engine=engine,
            log=log,
            sessions=self._sessions,
            bundles=bundles,
            limits=self._stream_limits,
            picture_limits=picture_limits,
            refine_policy=refine_policy,
            metrics=self._metrics,
        )
        self._streams: set[Stream] = set()
        self._refused = 0
        self._max_streams = max_streams
        self._calls = 0
        self._max_calls = max_calls
        self._draining = False
        self._cut_from = math.inf
        self.cut_streams = 0
        self._shared = Shared(
            processing=self._processing,
            log=log,
            sessions=self._sessions,
            bundles=bundles,
            settings=self._server_settings(max_message_bytes),
            server_version=server_version,
            limits=self._stream_limits,
            fleet=fleet,
            picture_limits=picture_limits,
            share=share,
        )
        self._metrics.reference_bytes.set_function(lambda: self.references.total_bytes)
        self._metrics.streams.set_function(lambda: len(self._streams))
        self._metrics.credits.set_function(lambda: sum(one.credits for one in self._streams))

    # grpc.aio also takes a coroutine that writes to its context; the stubs know generators only.
    async def Connect(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[ingest_pb2.ConnectRequest],
        context: ConnectContext,
    ) -> None:
        try:
            await self.serve(request_iterator, context.write, Call(caller(), context.peer()))
        except FeatherwireError as error:
            # The status waits behind what a slow client does not read, and gRPC gives a server no
            # way to reset a stream: it holds its place, and nothing else, until the client goes.
            self._refused += 1
            try:
                await abort(context, error)
            finally:
                self._refused -= 1

    async def serve(
        self, requests: AsyncIterator[ingest_pb2.ConnectRequest], write: Write, call: Call
    ) -> None:
        """Serve one stream, whatever carries it, until it has come to its end.

        Cancelling this is the client's going away. Raises the ``FeatherwireError`` that is to be
        the call's status, and whatever ``write`` raises.
        """
        try:
            self._check_room()
        except FeatherwireError as error:
            self._metrics.refused.labels(error.reason).inc()
            raise
        stream = Stream(self._shared, call)
        self._streams.add(stream)
        try:
            await stream.run(requests, write)
        except asyncio.CancelledError:
            # At the drain's deadline gRPC cancels what is left; a client may also just go away.
            if asyncio.get_running_loop().time() >= self._cut_from:
                self.cut_streams += 1
            raise
        except FeatherwireError as error:
            self._metrics.refused.labels(error.reason).inc()
            structlog.get_logger().warning(
                "stream_refused", peer=call.peer, reason=error.reason, error=error.message
            )
            raise
        finally:
            self._streams.discard(stream)

    async def exchange(
        self, requests: AsyncIterator[ingest_pb2.ConnectRequest], call: Call | None = None
    ) -> AsyncGenerator[ingest_pb2.ConnectResponse, None]:
        """``serve`` as a generator of its responses: a stream in memory, without sockets.

        A response counts as written when it is taken from here. Closing the generator is the
        client's going away. Raises what ``serve`` raises, behind the last response.
        """
        responses: asyncio.Queue[ingest_pb2.ConnectResponse] = asyncio.Queue(maxsize=1)
        serving = asyncio.create_task(self.serve(requests, responses.put, call or Call()))
        taking: asyncio.Task[ingest_pb2.ConnectResponse] | None = None
        try:
            while not (serving.done() and responses.empty()):
                taking = asyncio.create_task(responses.get())
                await asyncio.wait({serving, taking}, return_when=asyncio.FIRST_COMPLETED)
                if taking.done():
                    yield taking.result()
                else:
                    taking.cancel()
            await serving
        finally:
            for task in (serving, taking):
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    async def Analyze(
        self, request: ingest_pb2.AnalyzeRequest, context: AnalyzeContext
    ) -> ingest_pb2.AnalyzeResponse:
        if self._draining:
            await self._abort(context, _draining())
        if self._calls >= self._max_calls:
            await self._abort(
                context, SessionError("busy", f"{self._calls} calls are being served; try again")
            )
        self._calls += 1
        try:
            meter = self._meter()
            if meter is not None:
                meter.check()
                meter.count(frames=1, bytes=request.ByteSize())
            frame = await asyncio.to_thread(self._engine_frame, request)
            if meter is not None:
                meter.count(pixels=frame.pixels)
            outcome = await self._engine.submit(frame)
        except FeatherwireError as error:
            await self._abort(context, error)
        finally:
            self._calls -= 1
        if outcome.error is not None:
            await self._abort(context, outcome.error)
        return ingest_pb2.AnalyzeResponse(outcome=outcome_to_message(outcome))

    async def _abort(self, context: AnalyzeContext, error: FeatherwireError) -> NoReturn:
        self._metrics.refused.labels(error.reason).inc()
        await abort(context, error)

    def _check_room(self) -> None:
        """Raise ``SessionError``: draining, too_many_streams."""
        if self._draining:
            raise _draining()
        if len(self._streams) + self._refused >= self._max_streams:
            raise SessionError(
                "too_many_streams", f"all {self._max_streams} streams of this server are taken"
            )

    async def recover(self) -> int:
        """Take up the frames that a server before left without a result; returns how many."""
        return await self._processing.recover()

    async def close(self) -> None:
        """Record nothing more; frames without a result are for the next start."""
        await self._processing.close()

    def drain(self, deadline_s: float) -> None:
        """Refuse new streams and calls, and let those there are come to their end."""
        self._draining = True
        self._cut_from = asyncio.get_running_loop().time() + deadline_s - _TIMER_SLACK_S
        for stream in self._streams:
            stream.drain(deadline_s)

    @property
    def sessions_in_use(self) -> frozenset[SessionKey]:
        """Sessions with a stream, or with a frame that is being processed."""
        return self._shared.sessions.keys

    def share(self, log: ResultLog) -> SharedLog:
        """This server's part in a log that other servers write to as well. Blocks."""
        return SharedLog(
            log,
            self._fleet,
            attached=lambda: self._sessions.attached,
            lose=self._sessions.lose,
            take_up=self._processing.take_over,
        )

    @property
    def open_streams(self) -> int:
        """Streams that are being served."""
        return len(self._streams)

    def _meter(self) -> Meter | None:
        """The calling device's meter; None for unknown callers and those without a stream."""
        token = caller().token
        entry = None if token is None else self._fleet.registry.get(token.device or "")
        return None if entry is None else entry.meter

    def _engine_frame(self, request: ingest_pb2.AnalyzeRequest) -> EngineFrame:
        for features in request.features:
            complete_id(features, self._short_ids)
        bitstreams = parse_bitstreams(request.features, self._picture_limits)
        deadline_s = self._stream_limits.deadline_of(bitstreams[0])
        token = caller().token
        return EngineFrame(
            bitstreams,
            parse_tasks(request.tasks),
            parse_picture_request(request.picture) if request.HasField("picture") else None,
            deadline_s,
            device=(token.device or "") if token is not None else "",
            patience_s=deadline_s / 2,
        )

    def _server_settings(self, max_message_bytes: int) -> ingest_pb2.ServerSettings:
        settings = ingest_pb2.ServerSettings(
            max_message_bytes=max_message_bytes,
            max_frame_bytes=MAX_FRAME_BYTES,
            min_side=self._picture_limits.min_side,
            max_side=self._picture_limits.max_side,
            frame_deadline_s=self._stream_limits.frame_deadline_s,
        )
        for status in self._engine.tasks.values():
            info = types_pb2.TaskInfo(
                name=status.name, models=[model_to_message(model) for model in status.models]
            )
            if status.unavailable is not None:
                info.unavailable.CopyFrom(error_to_message(status.unavailable))
            settings.tasks.append(info)
            if status.on_features and not status.on_pictures:
                settings.feature_tasks.append(status.name)
        return settings


def _draining() -> SessionError:
    return SessionError("draining", "this server is about to stop; connect to another one")

"""ResultService: results by page, by key and as they come, and the frames behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from cloud_server.consumers.follow import Follower
from cloud_server.consumers.frames import choose, cut
from cloud_server.engine import Engine, EngineFrame
from cloud_server.ingest.bundles import ServedBundles
from cloud_server.ingest.flow import StreamLimits
from cloud_server.ingest.refinement import replayed
from cloud_server.results.log import ResultLog
from cloud_server.results.records import Filter, Record
from cloud_server.status import abort
from codec.markov_palette.cloud import makes_pictures
from shared.bitstream import Bitstream
from shared.errors import FeatherwireError, SessionError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import ingest_pb2, results_pb2, results_pb2_grpc, types_pb2
from shared.wire import PictureRequest, error_to_message
from shared.wire.features import features_message, parse_short_id
from shared.wire.requests import MAX_SEQUENCE, parse_picture_request
from shared.wire.results import outcome_to_message

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_PAGE = 100
MAX_PAGE = 1000


class ResultServicer(results_pb2_grpc.ResultServiceServicer):
    """Reads the log; makes pictures of stored frames with the engine."""

    def __init__(
        self,
        log: ResultLog,
        engine: Engine,
        bundles: ServedBundles,
        *,
        max_subscribers: int = 64,
        max_calls: int = 16,
        stream_limits: StreamLimits | None = None,
        picture_limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._log = log
        self._engine = engine
        self._bundles = bundles
        self._max_subscribers = max_subscribers
        self._max_calls = max_calls
        self._limits = stream_limits or StreamLimits()
        self._picture_limits = picture_limits
        self._calls = 0
        self.subscribers = 0
        """Streams that are being served."""
        self.cut_off = 0
        """Subscribers that were too slow, since the start."""

    async def ListResults(
        self, request: results_pb2.ListResultsRequest, context: Context
    ) -> results_pb2.ListResultsResponse:
        try:
            with self._counted():
                after = _cursor(request.after_cursor)
                page = await self._log.read(
                    Filter.parse(request.filter),
                    after,
                    min(request.page_size or DEFAULT_PAGE, MAX_PAGE),
                    before=_cursor(request.before_cursor) if request.newest_first else None,
                )
                if 0 < after < page.forgotten:
                    raise SessionError(
                        "cursor_expired",
                        f"records up to cursor {page.forgotten} are no longer kept",
                        cursor=page.forgotten,
                    )
        except FeatherwireError as error:
            await abort(context, error)
        return results_pb2.ListResultsResponse(
            records=[record.to_message() for record in page.records],
            next_cursor=page.position,
            end=page.end,
        )

    async def GetResult(
        self, request: results_pb2.GetResultRequest, context: Context
    ) -> results_pb2.GetResultResponse:
        try:
            with self._counted():
                record = await self._record(request)
        except FeatherwireError as error:
            await abort(context, error)
        return results_pb2.GetResultResponse(record=record.to_message())

    # grpc.aio also takes a coroutine that writes to its context; the stubs know generators only.
    async def SubscribeResults(  # type: ignore[override]
        self, request: results_pb2.SubscribeResultsRequest, context: Context
    ) -> None:
        follower: Follower | None = None
        if self.subscribers >= self._max_subscribers:
            await abort(
                context,
                SessionError("too_many_streams", f"all {self._max_subscribers} places are taken"),
            )
        self.subscribers += 1
        try:
            follower = Follower(
                self._log,
                Filter.parse(request.filter),
                context.write,
                write_timeout_s=self._limits.write_timeout_s,
            )
            after = _cursor(request.after_cursor) if request.HasField("after_cursor") else None
            await follower.run(after)
        except FeatherwireError as error:
            if error.reason == "slow_subscriber":
                self.cut_off += 1
            structlog.get_logger().info(
                "subscriber_left", peer=context.peer(), reason=error.reason, **error.details
            )
            if follower is not None and not follower.stuck:
                # It is read behind the records; the status may overtake them.
                await context.write(
                    results_pb2.SubscribeResultsResponse(error=error_to_message(error))
                )
            # Where nothing is read this waits until the client goes: see IngestServicer.Connect.
            await abort(context, error)
        finally:
            self.subscribers -= 1

    async def GetFrame(
        self, request: results_pb2.GetFrameRequest, context: Context
    ) -> results_pb2.GetFrameResponse:
        try:
            with self._counted():
                return await self._frame(request)
        except FeatherwireError as error:
            await abort(context, error)

    def drain(self) -> None:
        """Tell those who follow where they are, and to go elsewhere."""
        self._log.feed.close()

    # -- parts -----------------------------------------------------------------------------------

    async def _record(self, request: results_pb2.GetResultRequest) -> Record:
        if request.WhichOneof("key") == "cursor":
            record = await self._log.record_at(_cursor(request.cursor))
            named = f"of cursor {request.cursor}"
        else:
            key = request.frame
            record = await self._log.record_of_frame((key.device, key.session), _sequence(key))
            named = f"of frame {key.sequence}"
        if record is None:
            raise SessionError("not_found", f"there is no result {named}, or it is no longer kept")
        return record

    async def _frame(self, request: results_pb2.GetFrameRequest) -> results_pb2.GetFrameResponse:
        key = request.frame
        sequence = _sequence(key)
        messages = await self._log.frame_messages((key.device, key.session), sequence)
        if not messages:
            raise SessionError(
                "not_found", f"there is no frame {sequence}, or it is no longer kept"
            )
        wished = parse_picture_request(request.picture) if request.HasField("picture") else None
        bundle_id = parse_short_id(request.bundle_short_id)

        def chosen() -> tuple[tuple[Bitstream, ...], Bitstream]:
            bitstreams, _ = replayed(messages, self._bundles, self._picture_limits)
            one = choose(
                bitstreams,
                bundle_id,
                makes_pictures=None if wished is None else self._makes_pictures,
            )
            return bitstreams, cut(
                one,
                request.state if request.HasField("state") else None,
                request.max_bytes if request.HasField("max_bytes") else None,
            )

        bitstreams, one = await asyncio.to_thread(chosen)
        response = results_pb2.GetFrameResponse(
            features=features_message(one),
            bundle_short_ids=[each.bundle_id for each in bitstreams],
        )
        first = ingest_pb2.Frame.FromString(messages[0])
        if first.HasField("captured_at"):
            response.captured_at.CopyFrom(first.captured_at)
        if wished is not None:
            response.picture.CopyFrom(await self._picture(one, wished))
        return response

    async def _picture(self, bitstream: Bitstream, wished: PictureRequest) -> types_pb2.Picture:
        deadline_s = self._limits.deadline_of(bitstream)
        frame = EngineFrame((bitstream,), picture=wished, deadline_s=deadline_s)
        try:
            # While it has no worker the engine counts no time; the caller of a unary call does.
            async with asyncio.timeout(2 * deadline_s):
                outcome = await self._engine.submit(frame)
        except TimeoutError:
            raise SessionError("busy", "no worker had time for the picture; try again") from None
        for error in (outcome.error, outcome.picture_error):
            if error is not None:
                raise error
        return outcome_to_message(outcome).picture

    def _makes_pictures(self, short_id: bytes) -> bool:
        return self._bundles.serves(short_id) and makes_pictures(self._bundles.of(short_id))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._calls >= self._max_calls:
            raise SessionError("busy", f"{self._calls} calls are being served; try again")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1


def _cursor(cursor: int) -> int:
    if cursor > MAX_SEQUENCE:
        raise SessionError("invalid_message", "a cursor is below 2^63", field="cursor")
    return cursor


def _sequence(key: results_pb2.FrameKey) -> int:
    if not 1 <= key.sequence <= MAX_SEQUENCE:
        raise SessionError("invalid_message", "frame.sequence is not 1..2^63-1", field="frame")
    return key.sequence

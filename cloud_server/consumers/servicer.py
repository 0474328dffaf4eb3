"""ResultService: results by page, by key and as they come, and the frames behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from cloud_server.engine import Decoded, Engine, EngineFrame
from cloud_server.ingest.bundles import ServedBundles
from cloud_server.ingest.flow import StreamLimits
from cloud_server.ingest.references import References
from cloud_server.ingest.refinement import replayed
from cloud_server.results.log import ResultLog
from cloud_server.results.records import Filter, Record
from codec.base import recode, writable
from shared.bitstream import Bitstream
from shared.errors import BitstreamError, BudgetError, BundleError, FeatherwireError, SessionError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import ingest_pb2, results_pb2, results_pb2_grpc, types_pb2
from shared.rpc.status import abort
from shared.wire import PictureRequest, error_to_message
from shared.wire.features import features_message, parse_short_id
from shared.wire.formats import SILENT
from shared.wire.requests import MAX_SEQUENCE, parse_picture_request
from shared.wire.results import outcome_to_message

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_PAGE = 100
MAX_PAGE = 1000
REPLAYED_AT_ONCE = 100
FOLLOWED_AT_ONCE = 16
POSITION_EVERY_S = 15.0

Write = Callable[[results_pb2.SubscribeResultsResponse], Awaitable[None]]


class ResultServicer(results_pb2_grpc.ResultServiceServicer):
    """Reads the log; makes pictures of stored frames with the engine."""

    def __init__(
        self,
        log: ResultLog,
        engine: Engine,
        bundles: ServedBundles,
        references: References,
        *,
        max_subscribers: int = 64,
        max_calls: int = 16,
        stream_limits: StreamLimits | None = None,
        picture_limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._log = log
        self._engine = engine
        self._bundles = bundles
        self._references = references
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
        """End subscriptions: each subscriber gets its position and the error ``draining``."""
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
            return bitstreams, _choose(
                bitstreams,
                bundle_id,
                makes_pictures=None if wished is None else self._makes_pictures,
            )

        bitstreams, one = await asyncio.to_thread(chosen)
        state = request.state if request.HasField("state") else None
        max_bytes = request.max_bytes if request.HasField("max_bytes") else None
        versions = request.format_versions or SILENT
        values = await self._references.values(
            (key.device, key.session), sequence, (one,), refined=len(messages) > 1
        )

        (decoded,) = values.decoded

        def cut() -> Bitstream:
            if decoded is None:
                alone = recode(self._bundles.of(one.bundle_id), one, versions)
            else:
                alone = decoded.key_frame(writable(versions))
            return _cut(alone, state, max_bytes)

        one = await asyncio.to_thread(cut)
        response = results_pb2.GetFrameResponse(
            features=features_message(one),
            bundle_short_ids=[each.bundle_id for each in bitstreams],
        )
        first = ingest_pb2.Frame.FromString(messages[0])
        if first.HasField("captured_at"):
            response.captured_at.CopyFrom(first.captured_at)
        if wished is not None:
            # What has its values here is not decoded again, unless fewer are wanted.
            known = decoded if state is None and max_bytes is None else None
            response.picture.CopyFrom(await self._picture(key, one, known, wished))
        return response

    async def _picture(
        self,
        key: results_pb2.FrameKey,
        bitstream: Bitstream,
        decoded: Decoded | None,
        wished: PictureRequest,
    ) -> types_pb2.Picture:
        deadline_s = self._limits.deadline_of(bitstream)
        frame = EngineFrame(
            (bitstream,),
            picture=wished,
            decoded=() if decoded is None else (decoded,),
            deadline_s=deadline_s,
            patience_s=deadline_s,
            # Who plays a stream back asks for one frame after the other.
            stream=f"stored/{key.device}/{key.session}",
        )
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
        return self._bundles.serves(short_id) and bool(self._bundles.of(short_id).manifest.pictures)

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


class Follower:
    """One subscriber: what the log has, then what comes, in order.

        replaying ──has come to the feed──> following ──left behind by the feed──> cut off
            ▲                                  │
            └──────── the feed restarted ──────┘

    Ingest waits for no subscriber: while following, all of them read the one bounded feed, and one
    that it has left behind gets its cursor and is cut off. ``position`` is the cursor that it may
    go on from.
    """

    def __init__(
        self, log: ResultLog, wanted: Filter, write: Write, *, write_timeout_s: float
    ) -> None:
        self._log = log
        self._wanted = wanted
        self._write = write
        self._write_timeout_s = write_timeout_s
        # The position that was last sent, once the replay was done.
        self._position_sent: int | None = None
        self._position_sent_at = 0.0
        self.position = 0
        self.stuck = False
        """A write has not come to its end, so that nothing more can be written."""

    async def run(self, after: int | None) -> None:
        """Send records until the subscriber is gone. ``after``: None starts with new records.

        Raises ``SessionError``: cursor_expired, unknown_cursor, slow_subscriber, draining; its
        details have the cursor to subscribe with. And ``StorageError``.
        """
        feed = self._log.feed
        await self._log.catch_up()
        self.position = feed.last if after is None else after
        if self.position > feed.last:
            raise SessionError(
                "unknown_cursor",
                f"the log ends at cursor {feed.last}: {self.position} is of another log",
                cursor=feed.last,
            )
        if self.position == 0:
            self.position = await self._log.forgotten_cursor()
        while True:
            restarts = feed.restarts
            await self._replay()
            await self._follow(restarts)

    async def _replay(self) -> None:
        while self.position < self._log.feed.first:
            page = await self._log.read(self._wanted, self.position, REPLAYED_AT_ONCE)
            if page.forgotten > self.position:
                raise SessionError(
                    "cursor_expired",
                    f"records up to cursor {page.forgotten} are no longer kept",
                    cursor=page.forgotten,
                )
            for record in page.records:
                await self._send(record)
            self.position = page.position
            self._raise_if_closed()

    async def _follow(self, restarts: int) -> None:
        """Send what comes, until the feed restarts."""
        feed = self._log.feed
        while True:
            self._raise_if_closed()
            if self.position < feed.first:
                if feed.restarts != restarts:
                    return
                raise self._too_slow("fell behind the newest records")
            for record in feed.after(self.position)[:FOLLOWED_AT_ONCE]:
                if self._wanted.matches(record):
                    await self._send(record)
                self.position = record.cursor
            if self._position_sent is None:
                if self.position == feed.last:
                    await self._send_position()  # this is the end of the replay
            elif (
                time.monotonic() - self._position_sent_at > POSITION_EVERY_S
                and self._position_sent < self.position
            ):
                await self._send_position()
            await feed.more(self.position, POSITION_EVERY_S)

    # -- to the subscriber -----------------------------------------------------------------------

    async def _send(self, record: Record) -> None:
        await self._write_in_time(results_pb2.SubscribeResultsResponse(record=record.to_message()))
        self.position = record.cursor
        if self._position_sent is not None:
            self._position_sent = record.cursor
            self._position_sent_at = time.monotonic()

    async def _send_position(self) -> None:
        await self._write_in_time(results_pb2.SubscribeResultsResponse(position=self.position))
        self._position_sent = self.position
        self._position_sent_at = time.monotonic()

    async def _write_in_time(self, response: results_pb2.SubscribeResultsResponse) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self._write(response)
        except TimeoutError:
            self.stuck = True
            raise self._too_slow(f"read nothing for {self._write_timeout_s:g} s") from None

    def _too_slow(self, what: str) -> SessionError:
        return SessionError(
            "slow_subscriber",
            f"the subscriber {what}; subscribe again after cursor {self.position}",
            cursor=self.position,
        )

    def _raise_if_closed(self) -> None:
        if self._log.feed.closed:
            raise SessionError("draining", "this server is about to stop", cursor=self.position)


def _choose(
    bitstreams: Sequence[Bitstream],
    bundle_id: bytes,
    *,
    makes_pictures: Callable[[bytes], bool] | None,
) -> Bitstream:
    """The bitstream of that bundle (short id); of none, the first that is good for a picture when
    ``makes_pictures`` asks for one, else the first.

    Raises ``BundleError("not_found")``.
    """
    if not bundle_id:
        if makes_pictures is None:
            return bitstreams[0]
        good = [one for one in bitstreams if makes_pictures(one.bundle_id)]
        return good[0] if good else bitstreams[0]
    for one in bitstreams:
        if one.bundle_id == bundle_id:
            return one
    carried = ", ".join(one.bundle_id.hex() for one in bitstreams)
    raise BundleError(
        "not_found", f"the frame carries nothing of bundle {bundle_id.hex()}; it has: {carried}"
    )


def _cut(bitstream: Bitstream, state: int | None, max_bytes: int | None) -> Bitstream:
    """``bitstream`` no finer than ``state``, and in ``max_bytes`` as a file; whole layers go.

    Raises ``BitstreamError("bad_state")`` for a state that is coarser than its coarsest layer, and
    ``BudgetError("budget_too_small")`` for fewer bytes than that layer takes.
    """
    if state is not None and state > bitstream.state:
        coarsest = bitstream.layers[0].state
        if state > coarsest:
            raise BitstreamError(
                "bad_state",
                f"the frame was sent from state {coarsest} on, not {state}",
                state=state,
            )
        bitstream = bitstream.truncate(state)
    elif state is not None and state == bitstream.state:
        bitstream = bitstream.truncate(state)  # without the part of a finer layer
    if max_bytes is None or bitstream.file_bytes <= max_bytes:
        return bitstream
    sizes = bitstream.cumulative_bytes()
    fitting = [one for one, size_bytes in sizes.items() if size_bytes <= max_bytes]
    if not fitting:
        coarsest, least = next(iter(sizes.items()))
        raise BudgetError(
            "budget_too_small",
            f"the frame takes {least} bytes at its coarsest state {coarsest}, not {max_bytes}",
            least_bytes=least,
        )
    return bitstream.truncate(min(fitting))

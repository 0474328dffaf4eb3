"""Clients of ResultService: pages, single records, all that come, and stored frames."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import datetime, timedelta

from cloud_server.consumers.result import Result, filter_of, result_of
from shared.backoff import Backoff
from shared.bitstream import FORMAT_VERSIONS, Bitstream
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import results_pb2, results_pb2_grpc, types_pb2
from shared.rpc.access import Access
from shared.rpc.channel import AsyncChannel, open_channel
from shared.rpc.errors import typed_async_errors, typed_errors
from shared.wire import Picture, PictureRequest, error_from_message
from shared.wire.failures import is_retryable
from shared.wire.features import parse_features
from shared.wire.requests import picture_request_message
from shared.wire.results import picture_from_message

CALL_TIMEOUT_S = 60.0
ASYNC_CALL_TIMEOUT_S = 30.0
MAX_PAUSE_S = 10.0


class ResultClient:
    """Reads a server's log. Use it in a ``with`` statement.

    address: HOST:PORT. access: TLS and the token. All calls raise ``FeatherwireError``: the
    server's own, or ``SessionError("unreachable")``. Arguments and results are plain Python; what
    they are made of, the protocol's messages, is given by ``records``, ``record``, ``responses``
    and ``stored``.
    """

    def __init__(self, address: str, access: Access | None = None) -> None:
        self._channel = open_channel(address, access)
        self._stub = results_pb2_grpc.ResultServiceStub(self._channel)
        self._address = address
        self._access = access

    def __enter__(self) -> ResultClient:
        return self

    def __exit__(self, *error: object) -> None:
        self._channel.close()

    def list(
        self,
        *,
        device: str | Iterable[str] = (),
        session: str | Iterable[str] = (),
        tasks: Iterable[str] = (),
        classes: Iterable[str] = (),
        since: datetime | timedelta | None = None,
        until: datetime | None = None,
        after: int = 0,
        newest_first: bool = False,
    ) -> Iterator[Result]:
        """Results that are in the log, behind the cursor ``after``, in order; or the newest first.

        The other arguments say which, as ``filter_of`` takes them: ``device="cam-1"``,
        ``classes=["person", "car"]``, ``since=timedelta(hours=1)``.
        """
        wanted = filter_of(
            device=device, session=session, tasks=tasks, classes=classes, since=since, until=until
        )
        return map(result_of, self.records(wanted, after=after, newest_first=newest_first))

    def watch(
        self,
        *,
        device: str | Iterable[str] = (),
        session: str | Iterable[str] = (),
        tasks: Iterable[str] = (),
        classes: Iterable[str] = (),
        after: int | None = None,
        patience_s: float = 0.0,
    ) -> Iterator[Result]:
        """Results behind the cursor ``after`` (None: new ones only), then those that come.

        Each comes at least once, and in order. When the server goes away, or has cut us off, this
        subscribes again where it was, for up to ``patience_s`` seconds without an answer; then it
        raises.
        """
        wanted = filter_of(device=device, session=session, tasks=tasks, classes=classes)
        for response in self.responses(wanted, after=after, patience_s=patience_s):
            if response.HasField("record"):
                yield result_of(response.record)

    def get(
        self, cursor: int | None = None, *, frame: tuple[str, str, int] | None = None
    ) -> Result:
        """One result: by its cursor, or the newest of a frame (device, session, sequence)."""
        return result_of(self.record(cursor=cursor, frame=None if frame is None else _key(frame)))

    def frame(
        self,
        frame: Result | tuple[str, str, int],
        *,
        state: int | None = None,
        max_bytes: int | None = None,
        bundle: str = "",
        picture: PictureRequest | None = None,
    ) -> tuple[Bitstream, Picture | None]:
        """A stored frame, of a result or by device, session and sequence; and, if ``picture``
        asks for it, its reconstruction.

        state: no finer than this one. max_bytes: of the bitstream at most; whole layers are left
        out. bundle: whose features, by its short id in hex; the frame's first if not given.
        """
        if isinstance(frame, Result):
            frame = (frame.device, frame.session, frame.sequence)
        try:
            bundle_id = bytes.fromhex(bundle)
        except ValueError:
            raise FeatherwireError("bad_option", f"{bundle!r} is no bundle id in hex") from None
        bitstream, made = self.stored(
            _key(frame), state=state, max_bytes=max_bytes, bundle_id=bundle_id, picture=picture
        )
        return bitstream, None if made is None else picture_from_message(made)

    # -- the protocol's own messages -------------------------------------------------------------

    def records(
        self,
        wanted: results_pb2.ResultFilter | None = None,
        *,
        after: int = 0,
        newest_first: bool = False,
    ) -> Iterator[results_pb2.ResultRecord]:
        """As ``list``."""
        end = False
        request = results_pb2.ListResultsRequest(
            filter=wanted, after_cursor=after, newest_first=newest_first
        )
        while not end:
            with typed_errors(self._address, self._access):
                page = self._stub.ListResults(request, timeout=CALL_TIMEOUT_S)
            yield from page.records
            end = page.end
            if newest_first:
                request.before_cursor = page.next_cursor
            else:
                request.after_cursor = page.next_cursor

    def record(
        self, *, cursor: int | None = None, frame: results_pb2.FrameKey | None = None
    ) -> results_pb2.ResultRecord:
        """As ``get``."""
        request = results_pb2.GetResultRequest(frame=frame)
        if cursor is not None:
            request.cursor = cursor
        with typed_errors(self._address, self._access):
            return self._stub.GetResult(request, timeout=CALL_TIMEOUT_S).record

    def responses(
        self,
        wanted: results_pb2.ResultFilter | None = None,
        *,
        after: int | None = None,
        patience_s: float = 0.0,
    ) -> Iterator[results_pb2.SubscribeResultsResponse]:
        """As ``watch``, with the server's words for how far the log has come."""
        backoff = Backoff(0.1, MAX_PAUSE_S)
        heard_at = time.monotonic()
        while True:
            try:
                for response in self._subscribe(wanted, after):
                    heard_at = time.monotonic()
                    backoff.reset()
                    is_record = response.WhichOneof("message") == "record"
                    after = response.record.cursor if is_record else response.position
                    yield response
                raise SessionError("unreachable", f"{self._address} has ended the stream")
            except FeatherwireError as error:
                if not is_retryable(error) or time.monotonic() - heard_at > patience_s:
                    raise
            time.sleep(backoff.next_s())

    def stored(
        self,
        key: results_pb2.FrameKey,
        *,
        state: int | None = None,
        max_bytes: int | None = None,
        bundle_id: bytes = b"",
        picture: PictureRequest | None = None,
    ) -> tuple[Bitstream, types_pb2.Picture | None]:
        """As ``frame`` (see GetFrameRequest)."""
        request = _frame_request(key, state, max_bytes, bundle_id, picture)
        with typed_errors(self._address, self._access):
            response = self._stub.GetFrame(request, timeout=CALL_TIMEOUT_S)
        return parse_features(response.features), response.picture if picture else None

    def _subscribe(
        self, wanted: results_pb2.ResultFilter | None, after: int | None
    ) -> Iterator[results_pb2.SubscribeResultsResponse]:
        request = results_pb2.SubscribeResultsRequest(filter=wanted, after_cursor=after)
        call = self._stub.SubscribeResults(request)
        try:
            with typed_errors(self._address, self._access):
                for response in call:
                    if response.WhichOneof("message") == "error":
                        raise error_from_message(response.error)
                    yield response
        finally:
            call.cancel()


class AsyncResultClient:
    """As ``ResultClient``, over a channel that the caller closes. Raises ``FeatherwireError``."""

    def __init__(self, channel: AsyncChannel, address: str, access: Access) -> None:
        self._address = address
        self._access = access
        self.use(channel)

    def use(self, channel: AsyncChannel) -> None:
        """Make calls that begin from here on over this channel."""
        self._stub = results_pb2_grpc.ResultServiceStub(channel)

    async def page(
        self, request: results_pb2.ListResultsRequest
    ) -> results_pb2.ListResultsResponse:
        """One page of the log."""
        async with typed_async_errors(self._address, self._access):
            return await self._stub.ListResults(request, timeout=ASYNC_CALL_TIMEOUT_S)

    async def record(self, cursor: int) -> results_pb2.ResultRecord:
        """The record of that cursor."""
        request = results_pb2.GetResultRequest(cursor=cursor)
        async with typed_async_errors(self._address, self._access):
            return (await self._stub.GetResult(request, timeout=ASYNC_CALL_TIMEOUT_S)).record

    async def newest(self, device: str) -> results_pb2.ResultRecord | None:
        """The device's newest record; None when there is none."""
        request = results_pb2.ListResultsRequest(
            filter=results_pb2.ResultFilter(devices=[device]), newest_first=True, page_size=1
        )
        records = (await self.page(request)).records
        return records[0] if records else None

    async def watch(
        self, wanted: results_pb2.ResultFilter, after: int | None
    ) -> AsyncIterator[results_pb2.ResultRecord]:
        """Records behind ``after`` (None: new ones only), then those that come, until the server
        ends the stream: then it raises."""
        request = results_pb2.SubscribeResultsRequest(filter=wanted, after_cursor=after)
        call = self._stub.SubscribeResults(request)
        try:
            async with typed_async_errors(self._address, self._access):
                async for response in call:
                    match response.WhichOneof("message"):
                        case "record":
                            yield response.record
                        case "error":
                            raise error_from_message(response.error)
                raise SessionError("unreachable", f"{self._address} has ended the stream")
        finally:
            call.cancel()

    async def frame(
        self,
        key: results_pb2.FrameKey,
        *,
        state: int | None = None,
        bundle_id: bytes = b"",
        picture: PictureRequest | None = None,
    ) -> tuple[Bitstream, types_pb2.Picture | None]:
        """A stored frame, cut to ``state`` (see GetFrameRequest), and its picture."""
        request = _frame_request(key, state, None, bundle_id, picture)
        async with typed_async_errors(self._address, self._access):
            response = await self._stub.GetFrame(request, timeout=ASYNC_CALL_TIMEOUT_S)
        return parse_features(response.features), response.picture if picture else None


def _key(frame: tuple[str, str, int]) -> results_pb2.FrameKey:
    device, session, sequence = frame
    return results_pb2.FrameKey(device=device, session=session, sequence=sequence)


def _frame_request(
    key: results_pb2.FrameKey,
    state: int | None,
    max_bytes: int | None,
    bundle_id: bytes,
    picture: PictureRequest | None,
) -> results_pb2.GetFrameRequest:
    return results_pb2.GetFrameRequest(
        frame=key,
        state=state,
        max_bytes=max_bytes,
        bundle_short_id=bundle_id,
        format_versions=FORMAT_VERSIONS,
        picture=picture_request_message(picture),
    )

"""A consumer of results on an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from shared.bitstream import Bitstream
from shared.errors import SessionError
from shared.proto.featherwire.v1 import results_pb2, results_pb2_grpc, types_pb2
from shared.rpc.access import Access
from shared.rpc.errors import typed_async_errors
from shared.wire import PictureRequest, error_from_message
from shared.wire.features import parse_features
from shared.wire.requests import picture_request_message

CALL_TIMEOUT_S = 30.0


class AsyncResultClient:
    """As ``ResultClient``, over a channel that the caller closes. Raises ``FeatherwireError``."""

    def __init__(self, channel: grpc.aio.Channel, address: str, access: Access) -> None:
        self._stub = results_pb2_grpc.ResultServiceStub(channel)  # type: ignore[arg-type]
        self._address = address
        self._access = access

    async def page(
        self, request: results_pb2.ListResultsRequest
    ) -> results_pb2.ListResultsResponse:
        """One page of the log."""
        async with typed_async_errors(self._address, self._access):
            return await self._stub.ListResults(request, timeout=CALL_TIMEOUT_S)

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
        request = results_pb2.GetFrameRequest(
            frame=key,
            state=state,
            bundle_short_id=bundle_id,
            picture=picture_request_message(picture),
        )
        async with typed_async_errors(self._address, self._access):
            response = await self._stub.GetFrame(request, timeout=CALL_TIMEOUT_S)
        return parse_features(response.features), response.picture if picture else None

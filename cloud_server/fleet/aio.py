"""An operator's view of a server's fleet, on an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from shared.errors import SessionError
from shared.proto.featherwire.v1 import bundles_pb2, bundles_pb2_grpc, fleet_pb2, fleet_pb2_grpc
from shared.rpc.access import Access
from shared.rpc.errors import typed_async_errors

CALL_TIMEOUT_S = 20.0


class AsyncFleetClient:
    """As ``FleetClient``, over a channel that the caller closes. Raises ``FeatherwireError``."""

    def __init__(self, channel: grpc.aio.Channel, address: str, access: Access) -> None:
        self._stub = fleet_pb2_grpc.FleetServiceStub(channel)  # type: ignore[arg-type]
        self._bundles = bundles_pb2_grpc.BundleServiceStub(channel)  # type: ignore[arg-type]
        self._address = address
        self._access = access

    async def check(self) -> None:
        """Raise what the server would say to somebody who asks for devices."""
        await self._call(self._stub.ListDevices, fleet_pb2.ListDevicesRequest(page_size=1))

    async def devices(self, *, page_size: int = 1000) -> list[fleet_pb2.Device]:
        """All devices, by name."""
        found: list[fleet_pb2.Device] = []
        token = ""
        while True:
            request = fleet_pb2.ListDevicesRequest(page_size=page_size, page_token=token)
            page = await self._call(self._stub.ListDevices, request)
            found.extend(page.devices)
            token = page.next_page_token
            if not token:
                return found

    async def watch(self) -> AsyncIterator[fleet_pb2.Device]:
        """Devices as they are, then as they change, until the server ends the stream: then it
        raises."""
        call = self._stub.WatchDevices(fleet_pb2.WatchDevicesRequest())
        try:
            async with typed_async_errors(self._address, self._access):
                async for response in call:
                    yield response.device
                raise SessionError("unreachable", f"{self._address} has ended the stream")
        finally:
            call.cancel()

    async def send(self, device: str, command: fleet_pb2.Command) -> str:
        """Give the device a command; returns its id."""
        request = fleet_pb2.SendCommandRequest(
            selector=fleet_pb2.DeviceSelector(devices=[device]), command=command
        )
        answer = await self._call(self._stub.SendCommand, request)
        return str(answer.command_id_by_device[device])

    async def commands(
        self, device: str | None = None, *, count: int = 50, pending_only: bool = False
    ) -> list[fleet_pb2.IssuedCommand]:
        """The newest commands, of one device or of all, newest first."""
        selector = fleet_pb2.DeviceSelector(devices=[] if device is None else [device])
        request = fleet_pb2.ListCommandsRequest(
            selector=selector, page_size=count, pending_only=pending_only, newest_first=True
        )
        return list((await self._call(self._stub.ListCommands, request)).commands)

    async def audit(self, *, count: int = 100) -> list[fleet_pb2.AuditEntry]:
        """The newest entries of the audit, newest first."""
        request = fleet_pb2.ListAuditRequest(page_size=count, newest_first=True)
        return list((await self._call(self._stub.ListAudit, request)).entries)

    async def bundles(self) -> list[bundles_pb2.BundleInfo]:
        """The bundles that the server takes, the wanted one first."""
        answer = await self._call(self._bundles.ListBundles, bundles_pb2.ListBundlesRequest())
        return list(answer.bundles)

    async def _call(self, method: Callable[..., Any], request: Any) -> Any:
        async with typed_async_errors(self._address, self._access):
            return await method(request, timeout=CALL_TIMEOUT_S)

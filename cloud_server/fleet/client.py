"""Clients of FleetService: devices, commands and the audit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from cloud_server.fleet.words import told_apart
from shared.errors import SessionError
from shared.proto.featherwire.v1 import bundles_pb2, bundles_pb2_grpc, fleet_pb2, fleet_pb2_grpc
from shared.rpc.access import FOR_METADATA_KEY, Access
from shared.rpc.channel import AsyncChannel, open_channel
from shared.rpc.errors import typed_async_errors, typed_errors

T = TypeVar("T")

CALL_TIMEOUT_S = 60.0
ASYNC_CALL_TIMEOUT_S = 20.0


class FleetClient:
    """Shows and commands devices. Use it in a ``with`` statement.

    address: HOST:PORT. access: TLS and an operator's token. All calls raise ``FeatherwireError``:
    the server's own, or ``SessionError("unreachable")``.
    """

    def __init__(self, address: str, access: Access | None = None) -> None:
        self._channel = open_channel(address, access)
        self._stub = fleet_pb2_grpc.FleetServiceStub(self._channel)
        self._bundles = bundles_pb2_grpc.BundleServiceStub(self._channel)
        self._address = address
        self._access = access

    def __enter__(self) -> FleetClient:
        return self

    def __exit__(self, *error: object) -> None:
        self._channel.close()

    def devices(
        self, selector: fleet_pb2.DeviceSelector | None = None
    ) -> Iterator[fleet_pb2.Device]:
        """The chosen devices, by name."""
        token = ""
        while True:
            request = fleet_pb2.ListDevicesRequest(selector=selector, page_token=token)
            page = self._call(self._stub.ListDevices, request)
            yield from page.devices
            token = page.next_page_token
            if not token:
                return

    def watch(self, selector: fleet_pb2.DeviceSelector | None = None) -> Iterator[fleet_pb2.Device]:
        """The chosen devices as they are, then as they change; until the server goes away."""
        call = self._stub.WatchDevices(fleet_pb2.WatchDevicesRequest(selector=selector))
        try:
            with typed_errors(self._address, self._access):
                for response in call:
                    yield response.device
        finally:
            call.cancel()

    def cancel(self, command_ids: Sequence[str]) -> list[str]:
        """Take commands back; returns the ids of those that had no answer yet."""
        request = fleet_pb2.CancelCommandsRequest(command_ids=command_ids)
        return list(self._call(self._stub.CancelCommands, request).cancelled_ids)

    def forget(self, device: str) -> None:
        """Take a device that is away out of the list."""
        self._call(self._stub.ForgetDevice, fleet_pb2.ForgetDeviceRequest(device=device))

    def send(
        self, selector: fleet_pb2.DeviceSelector, command: fleet_pb2.Command
    ) -> dict[str, str]:
        """Give the chosen devices a command; returns its id for each of them."""
        request = fleet_pb2.SendCommandRequest(selector=selector, command=command)
        return dict(self._call(self._stub.SendCommand, request).command_id_by_device)

    def bundle_names(self) -> dict[str, str]:
        """What people call the bundles that the server takes, by id."""
        answer = self._call(self._bundles.ListBundles, bundles_pb2.ListBundlesRequest())
        return told_apart((one.bundle_id, one.name, one.version) for one in answer.bundles)

    def commands(
        self,
        selector: fleet_pb2.DeviceSelector | None = None,
        *,
        pending_only: bool = False,
        newest_first: bool = False,
    ) -> Iterator[fleet_pb2.IssuedCommand]:
        """Commands to the chosen devices, oldest first, or newest first."""
        token = ""
        while True:
            request = fleet_pb2.ListCommandsRequest(
                selector=selector,
                pending_only=pending_only,
                page_token=token,
                newest_first=newest_first,
            )
            page = self._call(self._stub.ListCommands, request)
            yield from page.commands
            token = page.next_page_token
            if not token:
                return

    def audit(self, after: int = 0) -> Iterator[fleet_pb2.AuditEntry]:
        """Who did what, oldest first, behind the entry ``after``."""
        while True:
            request = fleet_pb2.ListAuditRequest(after_id=after)
            page = self._call(self._stub.ListAudit, request)
            for entry in page.entries:
                yield entry
                after = entry.id
            if page.end:
                return

    def _call(self, method: Callable[..., T], request: Message) -> T:
        with typed_errors(self._address, self._access):
            return method(request, timeout=CALL_TIMEOUT_S)


class AsyncFleetClient:
    """As ``FleetClient``, over a channel that the caller closes. Raises ``FeatherwireError``."""

    def __init__(self, channel: AsyncChannel, address: str, access: Access) -> None:
        self._address = address
        self._access = access
        self.use(channel)

    def use(self, channel: AsyncChannel) -> None:
        """Make calls that begin from here on over this channel."""
        self._stub = fleet_pb2_grpc.FleetServiceStub(channel)
        self._bundles = bundles_pb2_grpc.BundleServiceStub(channel)

    async def caller(self, tried_for: str = "") -> fleet_pb2.GetCallerResponse:
        """Who one is to the server. tried_for: whose token this is; the server notes it with a
        refusal."""
        metadata = ((FOR_METADATA_KEY, tried_for),) if tried_for else ()
        async with typed_async_errors(self._address, self._access):
            return await self._stub.GetCaller(
                fleet_pb2.GetCallerRequest(), timeout=ASYNC_CALL_TIMEOUT_S, metadata=metadata
            )

    async def check(self, tried_for: str = "") -> None:
        """Raise what the server would say to somebody who asks for devices; see ``caller``."""
        metadata = ((FOR_METADATA_KEY, tried_for),) if tried_for else ()
        async with typed_async_errors(self._address, self._access):
            await self._stub.ListDevices(
                fleet_pb2.ListDevicesRequest(page_size=1),
                timeout=ASYNC_CALL_TIMEOUT_S,
                metadata=metadata,
            )

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

    async def watch(self) -> AsyncIterator[fleet_pb2.WatchDevicesResponse]:
        """Devices as they are, then as they change or are forgotten, until the server ends the
        stream: then it raises."""
        call = self._stub.WatchDevices(fleet_pb2.WatchDevicesRequest(with_forgotten=True))
        try:
            async with typed_async_errors(self._address, self._access):
                async for response in call:
                    yield response
                raise SessionError("unreachable", f"{self._address} has ended the stream")
        finally:
            call.cancel()

    async def send(
        self, selector: fleet_pb2.DeviceSelector, command: fleet_pb2.Command
    ) -> dict[str, str]:
        """Give the chosen devices a command; returns its id for each of them."""
        request = fleet_pb2.SendCommandRequest(selector=selector, command=command)
        answer = await self._call(self._stub.SendCommand, request)
        return dict(answer.command_id_by_device)

    async def cancel(self, command_ids: Sequence[str]) -> list[str]:
        """Take commands back; returns the ids of those that had no answer yet."""
        request = fleet_pb2.CancelCommandsRequest(command_ids=command_ids)
        return list((await self._call(self._stub.CancelCommands, request)).cancelled_ids)

    async def forget(self, device: str) -> None:
        """Take a device that is away out of the list."""
        await self._call(self._stub.ForgetDevice, fleet_pb2.ForgetDeviceRequest(device=device))

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

    async def _call(self, method: Callable[..., Awaitable[T]], request: Message) -> T:
        async with typed_async_errors(self._address, self._access):
            return await method(request, timeout=ASYNC_CALL_TIMEOUT_S)

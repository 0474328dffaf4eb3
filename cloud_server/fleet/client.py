"""An operator's view of a server's fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from shared.proto.featherwire.v1 import fleet_pb2, fleet_pb2_grpc
from shared.rpc.access import Access
from shared.rpc.channel import open_channel
from shared.rpc.errors import typed_errors

CALL_TIMEOUT_S = 60.0


class FleetClient:
    """Shows and commands devices. Use it in a ``with`` statement.

    address: HOST:PORT. access: TLS and an operator's token. All calls raise ``FeatherwireError``:
    the server's own, or ``SessionError("unreachable")``.
    """

    def __init__(self, address: str, access: Access | None = None) -> None:
        self._channel = open_channel(address, access)
        self._stub = fleet_pb2_grpc.FleetServiceStub(self._channel)
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

    def send(
        self, selector: fleet_pb2.DeviceSelector, command: fleet_pb2.Command
    ) -> dict[str, str]:
        """Give the chosen devices a command; returns its id for each of them."""
        request = fleet_pb2.SendCommandRequest(selector=selector, command=command)
        return dict(self._call(self._stub.SendCommand, request).command_id_by_device)

    def commands(
        self, selector: fleet_pb2.DeviceSelector | None = None, *, pending_only: bool = False
    ) -> Iterator[fleet_pb2.IssuedCommand]:
        """Commands to the chosen devices, oldest first."""
        token = ""
        while True:
            request = fleet_pb2.ListCommandsRequest(
                selector=selector, pending_only=pending_only, page_token=token
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

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        with typed_errors(self._address, self._access):
            return method(request, timeout=CALL_TIMEOUT_S)

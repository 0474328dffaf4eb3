"""FleetService: devices as they are and as they change, commands, and who gave them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import grpc

from cloud_server.auth.access import caller
from cloud_server.fleet import audit, commands
from cloud_server.fleet.commands import check_command, check_selector
from cloud_server.fleet.fleet import Fleet
from shared.errors import FeatherwireError, SessionError, StorageError
from shared.proto.featherwire.v1 import fleet_pb2, fleet_pb2_grpc
from shared.rpc.status import abort
from shared.wire.requests import check_name

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_PAGE = 100
MAX_PAGE = 1000
WATCH_EVERY_S = 1.0
QUIET_S = 15.0


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Shows the fleet to operators, and takes their commands."""

    def __init__(
        self,
        fleet: Fleet,
        bundle_ids: Collection[str],
        *,
        tasks: Collection[str] | None = None,
        needs_token: bool = False,
        max_watchers: int = 64,
        write_timeout_s: float = 30.0,
    ) -> None:
        """bundle_ids: that devices may be commanded to use. tasks: that they may be commanded to
        ask for; None: any. needs_token: callers without one are turned away before they come here.
        """
        self._needs_token = needs_token
        self._tasks = tasks
        self._fleet = fleet
        self._bundle_ids = bundle_ids
        self._max_watchers = max_watchers
        self._write_timeout_s = write_timeout_s
        self._watchers = 0

    async def ListDevices(
        self, request: fleet_pb2.ListDevicesRequest, context: Context
    ) -> fleet_pb2.ListDevicesResponse:
        try:
            check_selector(request.selector)
        except FeatherwireError as error:
            await abort(context, error)
        size = _page(request.page_size)
        found = [
            entry
            for entry in self._fleet.registry.chosen(request.selector)
            if entry.described.device > request.page_token
        ]
        return fleet_pb2.ListDevicesResponse(
            devices=[entry.message() for entry in found[:size]],
            next_page_token=found[size - 1].described.device if len(found) > size else "",
        )

    # grpc.aio also takes a coroutine that writes to its context; the stubs know generators only.
    async def WatchDevices(  # type: ignore[override]
        self, request: fleet_pb2.WatchDevicesRequest, context: Context
    ) -> None:
        if self._watchers >= self._max_watchers:
            taken = f"all {self._max_watchers} places are taken"
            await abort(context, SessionError("too_many_streams", taken))
        self._watchers += 1
        try:
            check_selector(request.selector)
            await self._watch(request, context)
        except FeatherwireError as error:
            await abort(context, error)
        finally:
            self._watchers -= 1

    async def SendCommand(
        self, request: fleet_pb2.SendCommandRequest, context: Context
    ) -> fleet_pb2.SendCommandResponse:
        try:
            check_selector(request.selector)
            check_command(request.command, self._bundle_ids, self._tasks)
            issued = await self._fleet.issue(request.selector, request.command, caller().name)
        except FeatherwireError as error:
            await abort(context, _for_operators(error))
        return fleet_pb2.SendCommandResponse(
            command_id_by_device={one.device: one.command.command_id for one in issued}
        )

    async def CancelCommands(
        self, request: fleet_pb2.CancelCommandsRequest, context: Context
    ) -> fleet_pb2.CancelCommandsResponse:
        try:
            if not 1 <= len(request.command_ids) <= MAX_PAGE:
                raise SessionError(
                    "invalid_message", f"command_ids: 1 to {MAX_PAGE} of them", field="command_ids"
                )
            ids = await self._fleet.cancel(list(request.command_ids), caller().name)
        except FeatherwireError as error:
            await abort(context, _for_operators(error))
        return fleet_pb2.CancelCommandsResponse(cancelled_ids=ids)

    async def ForgetDevice(
        self, request: fleet_pb2.ForgetDeviceRequest, context: Context
    ) -> fleet_pb2.ForgetDeviceResponse:
        try:
            check_name("device", request.device)
            await self._fleet.forget(request.device, caller().name)
        except FeatherwireError as error:
            await abort(context, _for_operators(error))
        return fleet_pb2.ForgetDeviceResponse()

    async def GetCaller(
        self, _request: fleet_pb2.GetCallerRequest, _context: Context
    ) -> fleet_pb2.GetCallerResponse:
        who = caller()
        return fleet_pb2.GetCallerResponse(
            role="" if who.token is None else str(who.token.role),
            name=who.name,
            needs_token=self._needs_token,
        )

    async def ListCommands(
        self, request: fleet_pb2.ListCommandsRequest, context: Context
    ) -> fleet_pb2.ListCommandsResponse:
        try:
            check_selector(request.selector)
            after = _after(request.page_token)
            selector, size = request.selector, _page(request.page_size)
            devices = None
            if selector.devices or selector.labels:
                chosen = self._fleet.registry.chosen(selector)
                devices = [entry.described.device for entry in chosen]
            found = await self._fleet.read(
                lambda one: commands.listed(
                    one,
                    devices,
                    pending_only=request.pending_only,
                    after=after,
                    count=size + 1,
                    newest_first=request.newest_first,
                )
            )
        except FeatherwireError as error:
            await abort(context, _for_operators(error))
        return fleet_pb2.ListCommandsResponse(
            commands=[one.to_message() for one in found[:size]],
            next_page_token=str(found[size - 1].id) if len(found) > size else "",
        )

    async def ListAudit(
        self, request: fleet_pb2.ListAuditRequest, context: Context
    ) -> fleet_pb2.ListAuditResponse:
        size = _page(request.page_size)
        after = min(request.after_id, 2**63 - 1)
        try:
            found = await self._fleet.read(
                lambda one: audit.entries(one, after, size + 1, newest_first=request.newest_first)
            )
        except FeatherwireError as error:
            await abort(context, _for_operators(error))
        response = fleet_pb2.ListAuditResponse(end=len(found) <= size)
        for entry in found[:size]:
            added = response.entries.add(
                id=entry.id, who=entry.who, action=entry.action, what=entry.what
            )
            added.at.FromMicroseconds(entry.at)
        return response

    def drain(self) -> None:
        """End the streams of those who watch."""
        self._fleet.drain()

    async def close(self) -> None:
        """Keep what is not kept yet."""
        await self._fleet.close()

    async def _watch(self, request: fleet_pb2.WatchDevicesRequest, context: Context) -> None:
        """Nothing queues for a slow watcher: it gets devices as they are when it can take them."""
        registry = self._fleet.registry
        selector = request.selector
        sent = -1
        moving: set[str] = set()  # their rates fall without any event
        while True:
            started, version = time.monotonic(), registry.version
            if request.with_forgotten and sent >= 0:
                for name in registry.forgotten(sent, selector):
                    await self._write(fleet_pb2.WatchDevicesResponse(forgotten=name), context)
            for entry in list(registry.chosen(selector)):
                name = entry.described.device
                if entry.version > sent or name in moving:
                    device = entry.message()
                    await self._write(fleet_pb2.WatchDevicesResponse(device=device), context)
                    (moving.add if device.frames_per_second else moving.discard)(name)
            sent = version
            await registry.more(sent, WATCH_EVERY_S if moving else QUIET_S)
            if registry.closed:
                raise SessionError("draining", "this server is about to stop")
            await asyncio.sleep(max(0.0, started + WATCH_EVERY_S - time.monotonic()))

    async def _write(self, response: fleet_pb2.WatchDevicesResponse, context: Context) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await context.write(response)
        except TimeoutError:
            raise SessionError(
                "slow_subscriber", f"nothing was read for {self._write_timeout_s:g} s"
            ) from None


def _page(size: int) -> int:
    return min(size or DEFAULT_PAGE, MAX_PAGE)


def _after(token: str) -> int:
    if not token:
        return 0
    if not token.isascii() or not token.isdigit() or int(token) >= 2**63:
        raise SessionError("invalid_message", "page_token is none of ours", field="page_token")
    return int(token)


def _for_operators(error: FeatherwireError) -> FeatherwireError:
    """``error`` without what only the server's own operator need know of its database."""
    if isinstance(error, StorageError):
        return SessionError("log_unavailable", "the server cannot keep or read this now")
    return error

"""What the console asks of the server's API beyond what devices and consumers ask."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.auth.access import ACCESS
from cloud_server.auth.tokens import Role
from cloud_server.consumers import ResultClient
from cloud_server.fleet.client import FleetClient
from edge_client import EdgeSession
from shared.proto.featherwire.v1 import fleet_pb2, fleet_pb2_grpc, results_pb2, results_pb2_grpc
from tests.support.servers import FixedTask, ServerThread

Start = Callable[..., ServerThread]


@pytest.fixture
def filled(
    start_server: Start, tiny_bundle: object, image: NDArray[np.uint8]
) -> tuple[ServerThread, list[datetime]]:
    """A server with six results, and when each came back."""
    server = start_server({"fixed": lambda: FixedTask("fixed")})
    instants = []
    with EdgeSession(server.address, device="cam", bundle=tiny_bundle.origin) as session:
        for _ in range(6):
            session.send(image, tasks=["fixed"])
            instants.append(datetime.now(UTC))
    return server, instants


def pages(
    server: ServerThread, request: results_pb2.ListResultsRequest
) -> list[list[results_pb2.ResultRecord]]:
    """All pages, going on from each with its cursor."""
    found = []
    with ResultClient(server.address) as client:
        stub: results_pb2_grpc.ResultServiceStub = client._stub
        while True:
            page = stub.ListResults(request, timeout=20)
            found.append(list(page.records))
            if page.end:
                return found
            request.before_cursor = page.next_cursor


def test_results_come_newest_first_by_page(filled: tuple[ServerThread, list[datetime]]) -> None:
    server, _ = filled
    request = results_pb2.ListResultsRequest(newest_first=True, page_size=4)
    found = pages(server, request)
    assert [[one.sequence for one in page] for page in found] == [[6, 5, 4, 3], [2, 1]]


def test_results_are_chosen_by_time(filled: tuple[ServerThread, list[datetime]]) -> None:
    server, instants = filled

    def sequences(since: datetime | None, until: datetime | None, newest: bool) -> list[int]:
        wanted = results_pb2.ResultFilter()
        if since is not None:
            wanted.since.FromDatetime(since)
        if until is not None:
            wanted.until.FromDatetime(until)
        request = results_pb2.ListResultsRequest(filter=wanted, newest_first=newest)
        return [one.sequence for page in pages(server, request) for one in page]

    assert sequences(instants[1], instants[4], False) == [3, 4, 5]
    assert sequences(instants[1], None, True) == [6, 5, 4, 3]
    assert sequences(None, instants[1], True) == [2, 1]
    assert sequences(instants[5], None, False) == []
    assert sequences(None, instants[0] - timedelta(days=1), False) == []


def test_commands_and_audit_come_newest_first(
    filled: tuple[ServerThread, list[datetime]],
) -> None:
    server, _ = filled
    with FleetClient(server.address) as client:
        for state in (1, 2, 3):
            policy = fleet_pb2.RatePolicy(state=state)
            client.send(
                fleet_pb2.DeviceSelector(devices=["cam"]),
                fleet_pb2.Command(set_rate=fleet_pb2.SetRate(policy=policy)),
            )
        stub: fleet_pb2_grpc.FleetServiceStub = client._stub
        request = fleet_pb2.ListCommandsRequest(newest_first=True, page_size=2)
        first = stub.ListCommands(request, timeout=20)
        request.page_token = first.next_page_token
        second = stub.ListCommands(request, timeout=20)
        states = [one.command.set_rate.policy.state for one in (*first.commands, *second.commands)]
        assert states == [3, 2, 1]
        assert second.next_page_token == ""
        audit = fleet_pb2.ListAuditRequest(newest_first=True, page_size=2)
        newest = stub.ListAudit(audit, timeout=20)
        ids = [one.id for one in newest.entries]
        assert ids == sorted(ids, reverse=True)
        audit.after_id = ids[-1]
        rest = stub.ListAudit(audit, timeout=20)
        assert rest.end
        assert len(ids) + len(rest.entries) == 3


def test_a_device_tells_its_rate_and_its_last_error(
    filled: tuple[ServerThread, list[datetime]], image: NDArray[np.uint8], tiny_bundle: object
) -> None:
    server, _ = filled
    with FleetClient(server.address) as client, ResultClient(server.address) as results:
        (device,) = client.devices()
        *_, record = results.records()
        assert device.bits_per_pixel == pytest.approx(record.outcome.analysis.bits_per_pixel)
        assert not device.HasField("last_error")
        with EdgeSession(server.address, device="cam", bundle=tiny_bundle.origin) as session:
            session.send(image, tasks=["fixed"])
            refine = fleet_pb2.RefineFrame(sequence=999, state=0)
            client.send(
                fleet_pb2.DeviceSelector(devices=["cam"]), fleet_pb2.Command(refine_frame=refine)
            )
            for device in client.watch():
                if device.HasField("last_error"):
                    break
        (order,) = client.commands()
        assert device.last_error.reason == order.reply.error.reason


def test_consumers_look_at_devices_and_command_none() -> None:
    allowed = {name.rpartition("/")[2] for name, roles in ACCESS.items() if Role.CONSUMER in roles}
    assert {"ListDevices", "WatchDevices", "ListResults"} <= allowed
    assert not allowed & {"SendCommand", "ListCommands", "ListAudit", "Connect", "Analyze"}

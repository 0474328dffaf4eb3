"""Commands as operators give them, and what devices make of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cloud_server.fleet.client import FleetClient
from shared.proto.featherwire.v1 import fleet_pb2


def rate(state: int) -> fleet_pb2.Command:
    policy = fleet_pb2.RatePolicy(state=state)
    return fleet_pb2.Command(set_rate=fleet_pb2.SetRate(policy=policy))


def tasks(*names: str) -> fleet_pb2.Command:
    return fleet_pb2.Command(set_tasks=fleet_pb2.SetTasks(tasks=names))


def named(*devices: str, **labels: str) -> fleet_pb2.DeviceSelector:
    return fleet_pb2.DeviceSelector(devices=devices, labels=labels)


def until(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.02)
    return found


def outcomes(operator: FleetClient, *devices: str) -> list[tuple[str, str, str]]:
    """Device, kind and what became of it, of every command."""
    found = []
    for one in operator.commands(named(*devices)):
        outcome = "pending"
        if one.HasField("reply"):
            outcome = one.reply.error.reason if one.reply.HasField("error") else "done"
        found.append((one.device, one.command.WhichOneof("command") or "", outcome))
    return found


def use(operator: FleetClient, bundle_id: str) -> None:
    command = fleet_pb2.Command(use_bundle=fleet_pb2.UseBundle(bundle_id=bundle_id))
    operator.send(named("cam"), command)


def outcome(operator: FleetClient) -> str:
    """Of the newest command."""
    return outcomes(operator, "cam")[-1][2]


def refine(sequence: int) -> fleet_pb2.Command:
    return fleet_pb2.Command(refine_frame=fleet_pb2.RefineFrame(sequence=sequence))


def use_bundle(bundle_id: str) -> fleet_pb2.Command:
    return fleet_pb2.Command(use_bundle=fleet_pb2.UseBundle(bundle_id=bundle_id))

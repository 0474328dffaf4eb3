"""Commands and the audit, as people read them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloud_server.fleet.words import (
    audit_in_words,
    command_in_words,
    state_in_words,
    told_apart,
)
from shared.proto.featherwire.v1 import fleet_pb2
from shared.wire.commands import change_rate
from tests.support.fleet import rate, use_bundle

NAMES = {"a" * 64: "picture"}


def entry(action: str, what: Any) -> fleet_pb2.AuditEntry:
    text = what if isinstance(what, str) else json.dumps(what)
    return fleet_pb2.AuditEntry(id=1, who="ann", action=action, what=text)


def sent(command: dict[str, Any], devices: list[str], **labels: str) -> fleet_pb2.AuditEntry:
    what = {
        "selector": {"devices": devices, "labels": labels},
        "command": command,
        "command_ids": [f"c{number}" for number, _ in enumerate(devices or "ab", 1)],
    }
    return entry("SendCommand", what)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (sent({"use_bundle": {"bundle_id": "a" * 64}}, ["cam"]), "bundle: picture, to cam (c1)"),
        (
            sent({"use_bundle": {"bundle_id": "b" * 64}}, ["cam"]),
            "bundle: one that is not served (bbbbbbbb), to cam (c1)",
        ),
        (
            sent({"set_rate": {"policy": {"state": 3, "max_frames_per_second": 2}}}, ["a", "b"]),
            "rate: state 3, 2 frames/s, to a, b (2 commands)",
        ),
        (sent({"set_tasks": {}}, [], site="north"), "tasks: none, to devices with site=north (2 "),
        (sent({"key_frame": {}}, ["cam"]), "key frame, to cam (c1)"),
        (
            entry("CommandReply", {"command_id": "c4", "kind": "key_frame"}),
            "key frame (c4): done",
        ),
        (sent({"set_tasks": {}}, []), "tasks: none, to every device (2 commands)"),
        (sent({"set_tasks": {}}, list("abcdefg")), "tasks: none, to 7 devices (7 commands)"),
        (
            entry("CommandReply", {"command_id": "c4", "kind": "use_bundle"}),
            "bundle (c4): done",
        ),
        (
            entry(
                "CommandReply",
                {"command_id": "c4", "kind": "set_rate", "reason": "x", "message": "too fine"},
            ),
            "rate (c4) refused: too fine",
        ),
        (
            entry(
                "CancelCommands",
                {"commands": [{"command_id": "c1", "device": "cam", "kind": "set_tasks"}]},
            ),
            "c1 (tasks of cam)",
        ),
        (entry("ForgetDevice", {"device": "cam", "commands": []}), "device cam"),
        (
            entry("CreateToken", {"id": "ab", "role": "device", "device": "cam", "name": "roof"}),
            "token roof (ab), role device, of device cam",
        ),
        (
            entry(
                "Refused",
                {"call": "GetCaller", "reason": "r", "message": "no such token", "for": "10.0.0.3"},
            ),
            "log-in at the console from 10.0.0.3 failed: no such token",
        ),
        (
            entry("Refused", {"call": "ListAudit", "reason": "r", "message": "m", "times": 4}),
            "the audit: m (4 times more)",
        ),
        (entry("SomethingNewer", {"a": {"b": 1}, "c": [2, 3]}), "a b 1, c 2 3"),
        (entry("SendCommand", {"of another": "release"}), "of another release"),
        (entry("SendCommand", {"cut": '{"selec'}), '{"selec'),
        (entry("SendCommand", "no JSON"), "no JSON"),
    ],
)
def test_the_audit_is_read_by_people(one: fleet_pb2.AuditEntry, words: str) -> None:
    assert audit_in_words(one, NAMES).startswith(words)


def test_commands_name_bundles_and_say_what_a_change_changes() -> None:
    assert command_in_words(use_bundle("a" * 64), NAMES) == "bundle: picture"
    assert command_in_words(rate(4), {}) == "rate: state 4"
    faster = change_rate(fleet_pb2.RatePolicy(max_frames_per_second=2), clear=["state"])
    assert command_in_words(faster, {}) == "rate: 2 frames/s, state its own"


def test_bundles_of_one_name_are_told_apart() -> None:
    given = [("1" * 64, "picture", "1.0"), ("2" * 64, "picture", "1.1"), ("3" * 64, "detect", "1")]
    assert list(told_apart(given).values()) == ["picture 1.0", "picture 1.1", "detect"]
    twins = told_apart([("1" * 64, "own", "1"), ("2" * 64, "own", "1")])
    assert list(twins.values()) == ["own 1 (11111111)", "own 1 (22222222)"]


def test_the_state_of_a_region_is_told_beside_that_of_the_rest() -> None:
    device = fleet_pb2.Device()
    assert state_in_words(device) == ""
    device.state = 0
    device.rate_policy.state = 5
    assert state_in_words(device) == "0"
    device.regions.add(state=0)
    assert state_in_words(device) == "5, region 0"
    device.rate_policy.bits_per_pixel = 0.1  # how fine the rest is, the device has chosen
    assert state_in_words(device) == "region 0"
    device.rate_policy.state = 5
    device.state = 5  # the last frame is one from before the region
    assert state_in_words(device) == "5"

"""Commands reach devices that were away, once, over restarts; operators see what devices do."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.auth.tokens import Role
from cloud_server.fleet.client import FleetClient
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from shared.bundle import Bundle
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2
from shared.rpc.channel import open_channel
from shared.wire.requests import Hello, hello_message
from tests.support.access import Keys
from tests.support.commands import run
from tests.support.fleet import named, outcomes, rate, tasks, until
from tests.support.raw_client import RawClient
from tests.support.servers import FixedTask, ServerThread, server_process

Start = Callable[..., ServerThread]


@contextmanager
def device(address: str, name: str, session: str = "s", **labels: str) -> Iterator[RawClient]:
    """A device's stream, after Welcome; it answers no command by itself."""
    client = RawClient(address)
    try:
        client.hello(device=name, session=session, labels=labels)
        yield client
    finally:
        client.close()


def reply(client: RawClient, command: fleet_pb2.Command, reason: str | None = None) -> None:
    answer = fleet_pb2.CommandReply(command_id=command.command_id)
    if reason is not None:
        answer.error.reason = reason
    client.say(command_reply=answer)


def visit(address: str, name: str, **labels: str) -> None:
    with device(address, name, **labels), FleetClient(address) as operator:
        until(lambda: [one for one in operator.devices(named(name)) if one.online])


def test_a_device_that_was_away_gets_its_commands_once_and_in_order(start_server: Start) -> None:
    server = start_server({"detection": lambda: FixedTask("detection")})
    visit(server.address, "cam")
    with FleetClient(server.address) as operator:
        (cam,) = until(lambda: [one for one in operator.devices() if not one.online])
        assert cam.device == "cam"
        operator.send(named("cam"), rate(5))
        operator.send(named("cam"), tasks("detection"))
        operator.send(named("cam"), rate(3))
        assert outcomes(operator) == [
            ("cam", "set_rate", "superseded"),
            ("cam", "set_tasks", "pending"),
            ("cam", "set_rate", "pending"),
        ]
        with device(server.address, "cam") as client:
            first, second = client.wait_for("command", 2)
            assert first.set_tasks.tasks == ["detection"]
            assert second.set_rate.policy.state == 3
            reply(client, first)
            until(lambda: outcomes(operator)[1][2] == "done")
        # It left without an answer to the second one, so that comes again, and only that.
        with device(server.address, "cam", session="other") as client:
            (again,) = client.wait_for("command")
            assert again.command_id == second.command_id
            reply(client, again)
            until(lambda: outcomes(operator)[2][2] == "done")
            operator.send(named("cam"), tasks())
            live = client.wait_for("command", 2)[1]
            reply(client, live, "unsupported_command")
            until(lambda: outcomes(operator)[3][2] == "unsupported_command")
        with device(server.address, "cam") as client:
            client.say(heartbeat={"nonce": 7})
            client.wait_for("heartbeat")
            assert client.all("command") == []
            # What it took goes with Welcome from now on; what it refused does not.
            (welcome,) = client.all("welcome")
            assert welcome.settings.rate_policy.state == 3
        (cam,) = operator.devices()
        assert cam.rate_policy.state == 3
        assert cam.tasks == ["detection"]
        assert cam.pending_commands == 0


@contextmanager
def process(bundle: Bundle, data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with server_process(
        "--bundle", bundle.origin, "--bundles", "none", "--tasks", "none", "--data", str(data)
    ) as (running, ready):
        yield running, ready["listening"]


def test_commands_and_devices_survive_a_server_that_is_killed(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with process(tiny_bundle, tmp_path) as (running, address):
        visit(address, "cam", site="north")
        visit(address, "far")
        with FleetClient(address) as operator:
            sent = operator.send(named(), rate(2))
            assert set(sent) == {"cam", "far"}
        running.send_signal(signal.SIGKILL)
        running.wait(10)
    with process(tiny_bundle, tmp_path) as (running, address), FleetClient(address) as operator:
        cam, far = operator.devices()
        assert (cam.device, dict(cam.labels), cam.online) == ("cam", {"site": "north"}, False)
        assert (cam.pending_commands, far.pending_commands) == (1, 1)
        with device(address, "cam") as client:
            (command,) = client.wait_for("command")
            assert command.command_id == sent["cam"]
            assert command.set_rate.policy.state == 2
            reply(client, command)
            until(lambda: ("cam", "set_rate", "done") in outcomes(operator))
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    with process(tiny_bundle, tmp_path) as (_, address), FleetClient(address) as operator:
        assert outcomes(operator) == [("cam", "set_rate", "done"), ("far", "set_rate", "pending")]
        pending = operator.commands(pending_only=True)
        assert [one.device for one in pending] == ["far"]
        assert [entry.action for entry in operator.audit()] == ["SendCommand"]


def test_a_selector_chooses_by_labels_that_all_must_match(start_server: Start) -> None:
    server = start_server()
    address = server.address
    with (
        FleetClient(address) as operator,
        device(address, "a", site="north", kind="gate") as a,
        device(address, "b", site="north", kind="roof") as b,
        device(address, "c", site="south", kind="gate") as c,
    ):
        until(lambda: len(list(operator.devices())) == 3)
        north = operator.send(named(site="north"), rate(1))
        both = operator.send(named("b", "c", kind="gate"), rate(2))
        nobody = operator.send(named(site="west"), rate(3))
        assert (set(north), set(both), set(nobody)) == ({"a", "b"}, {"c"}, set())
        for client, state in ((a, 1), (b, 1), (c, 2)):
            (command,) = client.wait_for("command")
            assert command.set_rate.policy.state == state
        with pytest.raises(SessionError) as caught:
            operator.send(named("a", "nosuch"), rate(1))
        assert caught.value.reason == "not_found"
        assert len(outcomes(operator)) == 3  # nothing of that was kept
        assert [one.device for one in operator.devices(named(site="north"))] == ["a", "b"]


def test_watchers_see_devices_come_send_and_go(
    start_server: Start, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    server = start_server()
    address = server.address
    visit(address, "elsewhere")
    seen: list[fleet_pb2.Device] = []

    def watch() -> None:
        with FleetClient(address) as operator:
            try:
                for one in operator.watch(named("cam")):
                    seen.append(one)
            except SessionError as error:
                ended.append(error.reason)

    ended: list[str] = []
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    bitstream = encoder.encode(image, state=4)
    with device(address, "cam", site="north") as client:
        until(lambda: seen and seen[-1].online)
        for sequence in range(1, 6):
            client.frame(sequence, bitstream)
            client.wait_for("result", sequence)
        client.say(status=fleet_pb2.DeviceStatus(queued_frames=7, queued_bytes=70_000))
        until(lambda: seen[-1].frames_per_second > 0 and seen[-1].queued_frames == 7)
        assert seen[-1].state == 4
        assert seen[-1].bytes_per_second > 0
        assert dict(seen[-1].labels) == {"site": "north"}
        assert seen[-1].bundle_id == encoder.bundle.id
    until(lambda: not seen[-1].online)
    assert seen[-1].frames_per_second == 0
    assert {one.device for one in seen} == {"cam"}
    server.stop()
    watcher.join(20)
    assert ended == ["draining"]


def test_an_operator_asks_for_more_of_a_frame(
    start_server: Start, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    server = start_server()
    address = server.address
    with (
        FleetClient(address) as operator,
        EdgeSession(address, device="cam", session="one", encoder=encoder) as session,
    ):
        result = session.send(image, state=4, refinable=True)
        refine = fleet_pb2.RefineFrame(sequence=result.sequence, state=1)
        operator.send(named("cam"), fleet_pb2.Command(refine_frame=refine))
        until(lambda: outcomes(operator) == [("cam", "refine_frame", "done")])
        refine.sequence = 99
        operator.send(named("cam"), fleet_pb2.Command(refine_frame=refine))
        until(lambda: outcomes(operator)[1][2] == "not_refinable")
        for selector in (named(), named("cam", "cam2")):
            with pytest.raises(SessionError):
                operator.send(selector, fleet_pb2.Command(refine_frame=refine))
    until(lambda: not next(iter(FleetClient(address).devices())).online)
    with FleetClient(address) as operator:
        refine.sequence = result.sequence
        operator.send(named("cam"), fleet_pb2.Command(refine_frame=refine))
        # Its next session numbers other frames so: it is not asked.
        with device(address, "cam", session="two") as client:
            until(lambda: outcomes(operator)[2][2] == "refine_evicted")
            assert client.all("command") == []


def test_what_makes_no_sense_is_refused_and_nothing_is_kept(start_server: Start) -> None:
    server = start_server()
    visit(server.address, "cam")
    region = fleet_pb2.Region(state=1)
    region.box.x_max = 2
    wrong = [
        fleet_pb2.Command(),
        rate(256),
        fleet_pb2.Command(set_rate=fleet_pb2.SetRate()),
        tasks("no such task"),
        fleet_pb2.Command(set_regions=fleet_pb2.SetRegions(regions=[region])),
        fleet_pb2.Command(use_bundle=fleet_pb2.UseBundle(bundle_id="0" * 64)),
        fleet_pb2.Command(refine_frame=fleet_pb2.RefineFrame()),
    ]
    wrong[2].set_rate.policy.bits_per_pixel = float("nan")
    with FleetClient(server.address) as operator:
        for command in wrong:
            with pytest.raises(FeatherwireError) as caught:
                operator.send(named("cam"), command)
            assert caught.value.reason in {"invalid_message", "not_found"}, command
        with pytest.raises(FeatherwireError):
            operator.send(named("a b"), rate(1))
        assert outcomes(operator) == []
        assert list(operator.audit()) == []


def test_a_device_answers_for_itself_alone(start_server: Start) -> None:
    server = start_server()
    with (
        FleetClient(server.address) as operator,
        device(server.address, "a") as a,
        device(server.address, "b") as b,
    ):
        until(lambda: len(list(operator.devices())) == 2)
        operator.send(named("a"), rate(1))
        (command,) = a.wait_for("command")
        reply(b, command)
        b.say(heartbeat={"nonce": 1})
        b.wait_for("heartbeat")  # what came before it has been taken
        assert outcomes(operator) == [("a", "set_rate", "pending")]
        reply(a, command)
        until(lambda: outcomes(operator) == [("a", "set_rate", "done")])


def test_the_audit_says_who_did_what_over_the_command_line(
    start_server: Start, keys: Keys, tmp_path: Path
) -> None:
    (tmp_path / "operator").write_text(keys.token(Role.OPERATOR, name="ann"))
    (tmp_path / "consumer").write_text(keys.token(Role.CONSUMER))
    camera = keys.token(Role.DEVICE, device="cam", labels={"site": "north"})
    server = start_server(**keys.server)

    def fleet(*arguments: str, who: str = "operator") -> subprocess.CompletedProcess[str]:
        return run(
            "cloud_server", "fleet", *arguments, "--server", server.address, "--json",
            "--tls-ca", str(keys.folder / "ca.pem"), "--token-file", str(tmp_path / who),
        )  # fmt: skip

    channel = open_channel(server.address, keys.access(camera))
    client = RawClient(server.address, channel=channel)
    claims = {"site": "south", "lens": "wide"}  # the first of these is not the device's to say
    client.say(hello=hello_message(Hello("cam", "s", can_switch_bundle=True, labels=claims)))
    client.wait_for("welcome")
    sent = fleet("rate", "--label", "site=north", "--bpp", "0.1", "--fps", "2")
    assert sent.returncode == 0, sent.stderr
    (command,) = client.wait_for("command")
    assert command.set_rate.policy.bits_per_pixel == 0.1
    assert json.loads(sent.stdout)["sent"] == [{"device": "cam", "id": command.command_id}]
    refused = fleet("tasks", "none", "--all", who="consumer")
    assert refused.returncode == 4
    assert "[forbidden]" in refused.stderr
    assert fleet("tasks", "none").returncode == 2
    assert fleet("rate", "--all").returncode == 2
    assert fleet("rate", "--all", "--reset", "--state", "1").returncode == 2
    entry, turned_away = json.loads(fleet("audit").stdout)["entries"]
    assert turned_away["who"].startswith("consumer (")
    assert (turned_away["action"], turned_away["what"]["reason"]) == ("Refused", "forbidden")
    nobody = fleet("rate", "--label", "site=south", "--reset")
    assert (nobody.returncode, "[no_device]" in nobody.stderr) == (1, True)
    assert entry["who"].startswith("ann (")
    assert entry["action"] == "SendCommand"
    assert entry["what"]["selector"]["labels"] == {"site": "north"}
    assert entry["what"]["command"]["change_rate"]["policy"]["max_frames_per_second"] == 2
    (listed,) = json.loads(fleet("list").stdout)["devices"]
    assert (listed["device"], listed["online"], listed["pending_commands"]) == ("cam", True, 1)
    assert listed["labels"] == {"site": "north", "lens": "wide"}
    (watched,) = map(json.loads, fleet("watch", "--limit", "1").stdout.splitlines())
    assert watched["device"] == "cam"
    (kept,) = json.loads(fleet("commands", "--pending").stdout)["commands"]
    assert (kept["id"], kept["outcome"]) == (command.command_id, "pending")
    assert fleet("rate", "--all", "--bandwidth", "64k").returncode == 0
    (_, slower) = client.wait_for("command", 2)
    assert slower.set_rate.policy.bytes_per_second == 8000
    client.close()


def test_a_rate_that_waits_for_a_device_is_in_its_welcome(start_server: Start) -> None:
    address = start_server().address
    visit(address, "cam")
    with FleetClient(address) as operator:
        operator.send(named("cam"), rate(3))
        with device(address, "cam", "one") as client:
            assert client.all("welcome")[0].settings.rate_policy.state == 3
            reply(client, client.wait_for("command")[0])
            until(lambda: outcomes(operator)[0][2] == "done")
        operator.send(named("cam"), fleet_pb2.Command(set_rate=fleet_pb2.SetRate()))
        with device(address, "cam", "two") as client:
            assert client.all("welcome")[0].settings.rate_policy == fleet_pb2.RatePolicy()


def test_tasks_that_nobody_has_are_refused(start_server: Start) -> None:
    address = start_server().address
    visit(address, "cam")
    with FleetClient(address) as operator, pytest.raises(FeatherwireError) as caught:
        operator.send(named("cam"), tasks("nonsense"))
    assert caught.value.reason == "unknown_task"

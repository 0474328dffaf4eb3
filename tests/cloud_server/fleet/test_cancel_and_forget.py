"""Commands are taken back, devices forgotten, and a session's own things are gone with it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cloud_server.database import Database
from cloud_server.fleet import audit, commands
from cloud_server.fleet.fleet import DeviceConnection, Fleet
from shared.errors import SessionError
from shared.proto.featherwire.v1 import fleet_pb2
from shared.wire.requests import Hello
from tests.support.fleet import named, rate, use_bundle


class Device:
    """A device's stream, and what it was given."""

    def __init__(self, fleet: Fleet, name: str, session: str = "s") -> None:
        self.heard: list[commands.IssuedCommand] = []
        self.answered = 0
        hello = Hello(name, session, labels={"site": "north"})
        self.link: DeviceConnection = fleet.join(hello, "0" * 64, self.heard.append)

    async def answer(self, reason: str | None = None, *, again: bool = False) -> None:
        """Reply to the newest command, once it has come."""
        async with asyncio.timeout(20):
            while not again and len(self.heard) <= self.answered:
                await asyncio.sleep(0)
        self.answered = len(self.heard)
        reply = fleet_pb2.CommandReply(command_id=self.heard[-1].command.command_id)
        if reason is not None:
            reply.error.reason = reason
        await self.link.replied(reply)


async def entries(database: Database) -> list[tuple[str, str, Any]]:
    """The audit: who, action, what."""
    found = await database.read(lambda one: audit.entries(one, 0, 100))
    return [(one.who, one.action, json.loads(one.what)) for one in found]


async def outcome(database: Database, command_id: str) -> str:
    """Of a command: pending, done, or the reason why not."""
    found = await database.read(
        lambda one: commands.listed(one, None, pending_only=False, after=0, count=100)
    )
    (issued,) = [one for one in found if one.command.command_id == command_id]
    if issued.reply is None:
        return "pending"
    return issued.reply.error.reason if issued.reply.HasField("error") else "done"


async def test_a_pending_command_is_cancelled_and_never_given(database: Database) -> None:
    fleet = Fleet(database)
    Device(fleet, "cam").link.close()
    (bundle,) = await fleet.issue(named("cam"), use_bundle("a" * 64), "ann")
    (slower,) = await fleet.issue(named("cam"), rate(5), "ann")
    assert await fleet.cancel([bundle.command.command_id], "bob") == [bundle.command.command_id]
    assert await outcome(database, bundle.command.command_id) == "cancelled"
    (entry,) = fleet.registry.chosen(named("cam"))
    assert entry.message().pending_commands == 1
    back = Device(fleet, "cam")
    await back.link.give_pending()
    assert [one.id for one in back.heard] == [slower.id]
    assert await fleet.cancel([bundle.command.command_id], "bob") == []
    who, action, what = (await entries(database))[2]
    assert (who, action) == ("bob", "CancelCommands")
    assert what["commands"] == [
        {"command_id": bundle.command.command_id, "device": "cam", "kind": "use_bundle"}
    ]
    await fleet.close()


@pytest.mark.parametrize("wrong", ["c99", "99", "", "c", "c-1", "c" + "9" * 30])
async def test_nothing_is_cancelled_with_an_id_that_there_is_not(
    database: Database, wrong: str
) -> None:
    fleet = Fleet(database)
    Device(fleet, "cam")
    (one,) = await fleet.issue(named("cam"), rate(5), "ann")
    with pytest.raises(SessionError) as caught:
        await fleet.cancel([one.command.command_id, wrong], "ann")
    assert caught.value.reason == "not_found"
    assert await outcome(database, one.command.command_id) == "pending"
    await fleet.close()


async def test_a_device_that_had_it_already_has_the_last_word(database: Database) -> None:
    fleet = Fleet(database)
    device = Device(fleet, "cam")
    await device.link.give_pending()
    (one,) = await fleet.issue(named("cam"), rate(5), "ann")
    await fleet.cancel([one.command.command_id], "ann")
    await device.answer()
    assert await outcome(database, one.command.command_id) == "done"
    (entry,) = fleet.registry.chosen(named("cam"))
    assert entry.message().rate_policy.state == 5
    assert entry.message().pending_commands == 0
    await device.answer("unsupported_command", again=True)  # it has been answered
    assert await outcome(database, one.command.command_id) == "done"
    await fleet.close()


async def test_a_forgotten_device_is_gone_and_comes_back_new(database: Database) -> None:
    fleet = Fleet(database)
    device = Device(fleet, "cam")
    await device.link.give_pending()
    await fleet.issue(named("cam"), rate(5), "ann")
    await device.answer()
    with pytest.raises(SessionError) as caught:
        await fleet.forget("cam", "ann")
    assert caught.value.reason == "device_online"
    (waiting,) = await fleet.issue(named("cam"), use_bundle("a" * 64), "ann")
    version = fleet.registry.version
    device.link.close()
    await fleet.forget("cam", "ann")
    assert fleet.registry.forgotten(version, fleet_pb2.DeviceSelector()) == ["cam"]
    assert list(fleet.registry.chosen(fleet_pb2.DeviceSelector())) == []
    assert await outcome(database, waiting.command.command_id) == "cancelled"
    with pytest.raises(SessionError) as caught:
        await fleet.forget("cam", "ann")
    assert caught.value.reason == "not_found"
    await fleet.close()
    again = Fleet(database)
    assert list(again.registry.chosen(fleet_pb2.DeviceSelector())) == []
    back = Device(again, "cam")
    assert await back.link.rate_policy() is None
    await again.close()
    (entry,) = Fleet(database).registry.chosen(fleet_pb2.DeviceSelector())
    assert entry.described.device == "cam"


async def test_a_new_session_has_neither_the_queue_nor_the_regions_of_the_one_before(
    database: Database,
) -> None:
    fleet = Fleet(database)
    device = Device(fleet, "cam", "one")
    await device.link.give_pending()
    regions = fleet_pb2.SetRegions()
    regions.regions.add(state=0).box.x_max = 1
    await fleet.issue(named("cam"), fleet_pb2.Command(set_regions=regions), "ann")
    await device.answer()
    await fleet.issue(named("cam"), rate(5), "ann")
    await device.answer()
    device.link.status(fleet_pb2.DeviceStatus(queued_frames=7, queued_bytes=700))
    device.link.close()
    same = Device(fleet, "cam", "one").link
    assert (len(same.entry.described.regions), same.entry.described.queued_frames) == (1, 7)
    same.close()
    other = Device(fleet, "cam", "two").link.entry.described
    assert (len(other.regions), other.queued_frames, other.queued_bytes) == (0, 0, 0)
    assert other.rate_policy.state == 5  # the server gives it to the new session with its Welcome
    await fleet.close()


async def test_frames_that_have_come_wait_on_their_device_no_longer(database: Database) -> None:
    fleet = Fleet(database)
    device = Device(fleet, "cam")
    device.link.status(fleet_pb2.DeviceStatus(queued_frames=3, queued_bytes=900))
    device.link.frames(2, message_bytes=500, state=5, bits_per_pixel=0.1)
    described = device.link.entry.described
    assert (described.queued_frames, described.queued_bytes) == (1, 400)
    device.link.frames(1, message_bytes=300, state=5, bits_per_pixel=0.1)
    device.link.close()  # before it has said anything more
    assert (described.queued_frames, described.queued_bytes) == (0, 0)
    await fleet.close()


async def test_a_device_carries_the_name_of_its_bundle(database: Database) -> None:
    fleet = Fleet(database)
    fleet.registry.bundle_names = {"0" * 64: "picture", "a" * 64: "detect"}
    device = Device(fleet, "cam")
    await device.link.give_pending()
    assert device.link.entry.message().bundle_name == "picture"
    await fleet.issue(named("cam"), use_bundle("a" * 64), "ann")
    await device.answer()
    assert device.link.entry.message().bundle_name == "detect"
    await fleet.close()

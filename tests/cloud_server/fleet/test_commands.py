"""Commands, tokens and the audit, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Connection

from cloud_server.auth import tokens
from cloud_server.auth.tokens import Role
from cloud_server.database import Database
from cloud_server.fleet import audit, commands
from cloud_server.fleet.fleet import Fleet
from cloud_server.fleet.words import command_in_words
from shared.errors import SessionError
from shared.proto.featherwire.v1 import fleet_pb2
from shared.wire.requests import Hello
from tests.support.fleet import rate, refine


async def test_a_command_is_pending_until_it_is_answered_once(database: Database) -> None:
    one = await database.write(lambda c: commands.issue(c, "a", rate(1), "ann"))
    other = await database.write(lambda c: commands.issue(c, "b", rate(2), "ann"))
    assert one.id < other.id
    (kept,) = await database.read(lambda c: commands.pending(c, "a"))
    assert (kept.id, kept.command, kept.issued_by) == (one.id, one.command, "ann")
    assert kept.command.issued_at.ToMicroseconds() > 0
    assert await database.read(commands.pending_counts) == {"a": 1, "b": 1}
    reply = fleet_pb2.CommandReply(command_id="whatever the device says")
    assert await database.write(lambda c: commands.answer(c, one.id, reply))
    assert not await database.write(lambda c: commands.answer(c, one.id, reply))
    assert await database.read(lambda c: commands.pending(c, "a")) == []
    listed = await database.read(
        lambda c: commands.listed(c, None, pending_only=False, after=0, count=10)
    )
    assert [order.id for order in listed] == [one.id, other.id]
    assert listed[0].reply is not None
    assert listed[0].reply.command_id == one.command.command_id
    assert listed[0].to_message().HasField("replied_at")
    some = await database.read(
        lambda c: commands.listed(c, ["b"], pending_only=True, after=0, count=10)
    )
    assert [order.id for order in some] == [other.id]


async def test_a_later_setting_supersedes_and_refinements_do_not(database: Database) -> None:
    first = await database.write(lambda c: commands.issue(c, "a", rate(1), "ann"))
    for sequence in (1, 2):
        await database.write(lambda c, s=sequence: commands.issue(c, "a", refine(s), "ann"))
    last = await database.write(lambda c: commands.issue(c, "a", rate(2), "bob"))
    pending = await database.read(lambda c: commands.pending(c, "a"))
    assert [order.kind for order in pending] == ["refine_frame", "refine_frame", "set_rate"]
    assert pending[-1].id == last.id
    assert await database.read(lambda c: commands.pending(c, "a", pending[0].id)) == pending[1:]
    (superseded, *_) = await database.read(
        lambda c: commands.listed(c, ["a"], pending_only=False, after=0, count=1)
    )
    assert superseded.id == first.id
    assert superseded.reply is not None
    assert superseded.reply.error.reason == "superseded"
    late = fleet_pb2.CommandReply()
    assert not await database.write(lambda c: commands.answer(c, first.id, late))


async def test_a_key_frame_is_asked_for_once(database: Database) -> None:
    wanted = fleet_pb2.Command(key_frame=fleet_pb2.KeyFrame())
    commands.check_command(wanted, ())
    assert command_in_words(wanted, {}) == "key frame"
    for _ in range(2):
        last = await database.write(lambda c: commands.issue(c, "a", wanted, "ann"))
    assert await database.read(lambda c: commands.pending(c, "a")) == [last]


async def test_what_waits_for_a_device_is_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MAX_PENDING", 3)
    for sequence in (1, 2, 3):
        await database.write(lambda c, s=sequence: commands.issue(c, "a", refine(s), "ann"))
    with pytest.raises(SessionError) as caught:
        await database.write(lambda c: commands.issue(c, "a", refine(4), "ann"))
    assert caught.value.reason == "too_many_commands"
    await database.write(lambda c: commands.issue(c, "b", refine(4), "ann"))
    assert await database.read(commands.pending_counts) == {"a": 3, "b": 1}


async def test_tokens_and_the_audit(database: Database) -> None:
    def make(connection: Connection) -> tuple[str, tokens.Token]:
        made = tokens.create(connection, Role.DEVICE, device="cam", labels={"site": "north"})
        audit.note(connection, "ann", "CreateToken", {"id": made[1].id, "long": "x" * 10_000})
        return made

    text, token = await database.write(make)
    assert await database.read(lambda c: tokens.find(c, text)) == token
    assert await database.read(lambda c: tokens.among(c, {token.id, "0" * 16})) == {token.id: token}
    assert await database.read(tokens.any_good)
    await database.write(lambda c: tokens.revoke(c, token.id))
    assert not await database.read(tokens.any_good)
    await database.write(lambda c: audit.note(c, "bob", "RevokeToken", {}))
    first, second = await database.read(lambda c: audit.entries(c, 0, 10))
    assert (first.who, second.who) == ("ann", "bob")
    assert set(json.loads(first.what)) == {"cut"}
    assert await database.read(lambda c: audit.entries(c, first.id, 10)) == [second]


class Ears:
    def __init__(self) -> None:
        self.heard: list[commands.IssuedCommand] = []

    def give(self, order: commands.IssuedCommand) -> None:
        self.heard.append(order)


async def test_devices_and_what_they_were_told_outlive_the_server(database: Database) -> None:
    fleet = Fleet(database)
    ears = Ears()
    link = fleet.join(Hello("cam", "s", labels={"site": "north"}), "0" * 64, ears.give)
    everybody = fleet_pb2.DeviceSelector()
    await fleet.issue(everybody, rate(3), "ann")
    assert ears.heard == []  # not before it has been given what is older
    await link.give_pending()
    (order,) = ears.heard
    await link.replied(fleet_pb2.CommandReply(command_id=order.command.command_id))
    await link.replied(fleet_pb2.CommandReply(command_id="c999"))
    link.close()
    await fleet.close()
    (entry,) = Fleet(database).registry.chosen(everybody)
    device = entry.message()
    assert (device.device, device.online, device.pending_commands) == ("cam", False, 0)
    assert dict(device.labels) == {"site": "north"}
    assert device.rate_policy.state == 3

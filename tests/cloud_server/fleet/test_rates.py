"""A change of the rate keeps what it does not name, whoever else changes it at the same time."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import delete

from cloud_server.database import Database
from cloud_server.database.schema import COMMANDS
from cloud_server.fleet import commands
from cloud_server.fleet.fleet import Fleet
from cloud_server.fleet.rates import rate_given
from shared.errors import SessionError
from shared.proto.featherwire.v1 import fleet_pb2
from shared.wire.commands import change_rate
from shared.wire.requests import Hello
from tests.support.fleet import named, rate

Policy = fleet_pb2.RatePolicy


async def test_two_operators_at_once_do_not_undo_each_other(database: Database) -> None:
    fleet = Fleet(database)
    fleet.join(Hello("cam", "s"), "0" * 64, lambda issued: None)
    changes = [
        change_rate(Policy(max_frames_per_second=2)),
        change_rate(Policy(state=5)),
        change_rate(Policy(max_frames_per_second=3)),
        change_rate(Policy(bytes_per_second=8000)),
    ]
    issued = await asyncio.gather(*(fleet.issue(named("cam"), one, "ann") for one in changes))
    (last,) = issued[-1]
    assert last.kind == "set_rate"  # which devices of older releases know
    assert last.command.set_rate.policy == Policy(max_frames_per_second=3, bytes_per_second=8000)
    assert await database.read(lambda c: rate_given(c, "cam")) == last.command.set_rate.policy
    (cleared,) = await fleet.issue(
        named("cam"), change_rate(clear=["state", "max_frames_per_second"]), "bob"
    )
    # It was no state that was set, so there is none to be given back.
    assert cleared.command.set_rate.policy == Policy(bytes_per_second=8000)
    (whole,) = await fleet.issue(named("cam"), rate(1), "an operator of an older release")
    assert whole.command.set_rate.policy == Policy(state=1)
    await fleet.close()


async def test_what_a_device_has_refused_is_not_built_on(database: Database) -> None:
    first = await database.write(lambda c: commands.issue(c, "cam", rate(4), "ann"))
    await database.write(lambda c: commands.answer(c, first.id, fleet_pb2.CommandReply()))
    second = await database.write(
        lambda c: commands.issue(c, "cam", change_rate(Policy(max_frames_per_second=1)), "ann")
    )
    reply = commands.failed_reply(SessionError("invalid_message", "not I"))
    await database.write(lambda c: commands.answer(c, second.id, reply))
    third = await database.write(
        lambda c: commands.issue(c, "cam", change_rate(Policy(state=2)), "ann")
    )
    assert third.command.set_rate.policy == Policy(state=2)
    # Nor is it forgotten with the command that had set it.
    fleet = Fleet(database)
    link = fleet.join(Hello("cam", "s"), "0" * 64, lambda issued: None)
    await link.give_pending()
    await link.replied(fleet_pb2.CommandReply(command_id=third.command.command_id))
    await fleet.close()
    await database.write(lambda c: c.execute(delete(COMMANDS)))
    assert await database.read(lambda c: rate_given(c, "cam")) == Policy(state=2)


async def test_a_change_that_is_cancelled_takes_nobody_elses_with_it(database: Database) -> None:
    fleet = Fleet(database)
    fleet.join(Hello("cam", "s"), "0" * 64, lambda issued: None)
    (first,) = await fleet.issue(named("cam"), change_rate(Policy(max_frames_per_second=2)), "ann")
    (second,) = await fleet.issue(named("cam"), change_rate(Policy(state=5)), "bob")
    await fleet.cancel([second.command.command_id], "bob")
    (waiting,) = await database.read(lambda c: commands.pending(c, "cam"))
    assert (waiting.id, waiting.issued_by) == (first.id, "ann")
    assert await database.read(lambda c: rate_given(c, "cam")) == Policy(max_frames_per_second=2)
    await fleet.cancel([first.command.command_id], "ann")
    assert await database.read(lambda c: commands.pending(c, "cam")) == []
    assert await database.read(lambda c: rate_given(c, "cam")) == Policy()
    await fleet.close()


@pytest.mark.parametrize(
    ("policy", "mask"),
    [
        (Policy(state=1), []),
        (Policy(state=1), ["max_frames_per_second"]),
        (Policy(), ["fps"]),
        (Policy(state=1), ["state", "state"]),
        (Policy(max_frames_per_second=float("nan")), ["max_frames_per_second"]),
        (Policy(state=10_000), ["state"]),
        (Policy(frame_bytes=0), ["frame_bytes"]),
    ],
)
def test_a_change_that_means_nothing_is_refused(
    policy: fleet_pb2.RatePolicy, mask: list[str]
) -> None:
    command = fleet_pb2.Command(change_rate=fleet_pb2.ChangeRate(policy=policy))
    command.change_rate.mask.paths.extend(mask)
    with pytest.raises(SessionError) as caught:
        commands.check_command(command, [])
    assert caught.value.reason == "invalid_message"

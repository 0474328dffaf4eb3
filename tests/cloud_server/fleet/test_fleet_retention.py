"""Old commands and audit entries go; what waits for its device, and the numbering, stay."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection, select

from cloud_server.database import Database
from cloud_server.database.schema import COMMANDS
from cloud_server.fleet import audit, commands
from cloud_server.fleet.audit import BATCH, FleetRetention, Limits
from shared.proto.featherwire.v1 import fleet_pb2
from tests.support.fleet import rate, refine


async def issue(database: Database, count: int, *, answered: bool) -> list[int]:
    """Commands of one device; returns their ids."""

    def change(connection: Connection) -> list[int]:
        issued = [commands.issue(connection, "a", refine(n + 1), "ann").id for n in range(count)]
        for order_id in issued if answered else []:
            assert commands.answer(connection, order_id, fleet_pb2.CommandReply())
        return issued

    return await database.write(change)


async def ids(database: Database) -> list[int]:
    query = select(COMMANDS.c.id).order_by(COMMANDS.c.id)
    return await database.read(lambda one: list(one.execute(query).scalars()))


async def test_old_answered_commands_go_and_pending_ones_never(database: Database) -> None:
    answered = await issue(database, 5, answered=True)
    waiting = await issue(database, 3, answered=False)
    later = await issue(database, 2, answered=True)
    await asyncio.sleep(0.01)
    retention = FleetRetention(database, Limits(command_age_s=0.001))
    assert await retention.run_once() == 6
    # The newest stays, so that numbers go on behind it.
    assert await ids(database) == [*waiting, later[-1]]
    assert [one.id for one in await database.read(lambda c: commands.pending(c, "a"))] == waiting
    (new,) = await issue(database, 1, answered=False)
    assert new == later[-1] + 1
    assert answered[0] < waiting[0]
    assert await FleetRetention(database, Limits(command_age_s=3600)).run_once() == 0


async def test_so_many_answered_commands_are_kept(database: Database) -> None:
    waiting = await issue(database, 2, answered=False)
    answered = [
        *await issue(database, 200, answered=True),
        *await issue(database, 9, answered=True),
    ]
    assert await FleetRetention(database, Limits(commands=4)).run_once() == 205
    assert await ids(database) == [*waiting, *answered[-4:]]


async def test_the_audit_keeps_its_newest(database: Database) -> None:
    def fill(connection: Connection) -> None:
        for number in range(BATCH + 10):
            audit.note(connection, "ann", "SendCommand", {"number": number})

    await database.write(fill)
    retention = FleetRetention(database, Limits(audit_entries=3))
    assert await retention.run_once() == BATCH + 7
    kept = await database.read(lambda one: audit.entries(one, 0, 100))
    assert [one.id for one in kept] == [BATCH + 8, BATCH + 9, BATCH + 10]
    await asyncio.sleep(0.01)
    assert await FleetRetention(database, Limits(audit_age_s=0.001)).run_once() == 2
    await database.write(lambda one: audit.note(one, "ann", "SendCommand", {}))
    kept = await database.read(lambda one: audit.entries(one, 0, 100))
    assert [one.id for one in kept] == [BATCH + 10, BATCH + 11]


async def test_without_limits_all_is_kept(database: Database) -> None:
    await issue(database, 3, answered=True)
    await database.write(lambda one: commands.issue(one, "a", rate(1), "ann"))
    assert await FleetRetention(database, Limits()).run_once() == 0
    assert len(await ids(database)) == 4

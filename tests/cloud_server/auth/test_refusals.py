"""Whoever is turned away is in the audit: once at once, and then with how often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from cloud_server.auth.tokens import Role
from cloud_server.database import Database
from cloud_server.fleet import audit
from cloud_server.fleet.client import FleetClient
from cloud_server.fleet.refusals import MAX_DIFFERENT, MAX_WORDINGS, Refusals
from shared.errors import SessionError
from shared.rpc.channel import open_channel
from shared.wire.requests import Hello, hello_message
from tests.support.access import Keys
from tests.support.fleet import named, rate, until
from tests.support.raw_client import RawClient
from tests.support.servers import ServerThread

Start = Callable[..., ServerThread]


async def kept(database: Database) -> list[tuple[str, dict[str, Any]]]:
    found = await database.read(lambda one: audit.entries(one, 0, 1000))
    return [(one.who, json.loads(one.what)) for one in found]


async def test_what_is_refused_again_and_again_is_one_entry_and_a_number(
    database: Database,
) -> None:
    refusals = Refusals(database, every_s=1000)
    error = SessionError("unauthenticated", "no such token")
    for _ in range(50):
        refusals.note("somebody at 10.0.0.3", "ListAudit", error)
    refusals.note("somebody at 10.0.0.4", "ListAudit", error, {"for": "10.0.0.9"})
    await refusals.close()
    first, other, more = await kept(database)
    assert first == (
        "somebody at 10.0.0.3",
        {"call": "ListAudit", "reason": "unauthenticated", "message": "no such token"},
    )
    assert (other[0], other[1]["for"]) == ("somebody at 10.0.0.4", "10.0.0.9")
    assert (more[0], more[1]["times"]) == ("somebody at 10.0.0.3", 49)


async def test_other_words_for_the_same_reason_are_another_entry(database: Database) -> None:
    """Who had no token first, and then a wrong one, is told as both; so is who tried for whom."""
    refusals = Refusals(database, every_s=1000)
    who = "somebody at 10.0.0.3"
    refusals.note(who, "ListAudit", SessionError("unauthenticated", "wants a token"))
    wrong = SessionError("unauthenticated", "does not know that token")
    for _ in range(3):
        refusals.note(who, "ListAudit", wrong)
    for address in ("10.0.0.9", "10.0.0.10"):
        refusals.note(who, "GetCaller", wrong, {"for": address})
    await refusals.close()
    told = [
        (what["message"], what.get("for"), what.get("times")) for _, what in await kept(database)
    ]
    assert told == [
        ("wants a token", None, None),
        ("does not know that token", None, None),
        ("does not know that token", "10.0.0.9", None),
        ("does not know that token", "10.0.0.10", None),
        ("does not know that token", None, 2),
    ]


async def test_one_caller_with_many_words_leaves_room_for_others(database: Database) -> None:
    refusals = Refusals(database, every_s=1000)
    for number in range(3 * MAX_DIFFERENT):
        error = SessionError("wrong_device", f"this token is for device cam, not {number}")
        refusals.note("roof (1)", "Connect", error)
    refusals.note("reader (2)", "SendCommand", SessionError("forbidden", "not for this role"))
    await refusals.close()
    found = await kept(database)
    assert len(found) == MAX_WORDINGS + 3  # and the rest of them, the other caller, how often
    assert found[-2][0] == "reader (2)"
    assert found[-1][1]["times"] == 3 * MAX_DIFFERENT - MAX_WORDINGS - 1


async def test_a_crowd_does_not_fill_the_audit(database: Database) -> None:
    refusals = Refusals(database, every_s=1000)
    error = SessionError("unauthenticated", "no such token")
    for number in range(3 * MAX_DIFFERENT):
        refusals.note(f"somebody at 10.0.{number}.1", "ListAudit", error)
    await refusals.close()
    found = await kept(database)
    assert len(found) == MAX_DIFFERENT + 2
    assert found[-1][1]["times"] == 2 * MAX_DIFFERENT - 1


async def test_after_a_quiet_minute_it_is_told_anew(database: Database) -> None:
    refusals = Refusals(database, every_s=0.05)
    error = SessionError("forbidden", "not for this role")
    refusals.note("reader (1)", "SendCommand", error)
    async with asyncio.timeout(20):
        while refusals._known:
            await asyncio.sleep(0.01)
    refusals.note("reader (1)", "SendCommand", error)
    await refusals.close()
    assert [what.get("times") for _, what in await kept(database)] == [None, None]


@pytest.fixture
def server(start_server: Start, keys: Keys) -> ServerThread:
    keys.token(Role.OPERATOR)
    return start_server(**keys.server)


def test_strangers_and_wrong_roles_are_in_the_audit(server: ServerThread, keys: Keys) -> None:
    reader = keys.token(Role.CONSUMER, name="reader")
    for token in ("fwt_unknown", reader):
        with (
            FleetClient(server.address, keys.access(token)) as client,
            pytest.raises(SessionError),
        ):
            client.send(named("cam"), rate(1))
    channel = open_channel(
        server.address, keys.access(keys.token(Role.DEVICE, device="cam", name="roof"))
    )
    intruder = RawClient(server.address, channel=channel)
    intruder.say(hello=hello_message(Hello("other", "s")))
    with FleetClient(server.address, keys.access(keys.token(Role.OPERATOR))) as operator:
        found = until(lambda: len(every := list(operator.audit())) >= 3 and every)
        by_who = {one.who.split(" (")[0]: json.loads(one.what) for one in found}
    assert {one.action for one in found} == {"Refused"}
    assert by_who["somebody at 127.0.0.1"]["reason"] == "unauthenticated"
    assert by_who["reader"]["reason"] == "forbidden"
    assert by_who["roof"]["reason"] == "wrong_device"
    assert "fwt_unknown" not in str(found)

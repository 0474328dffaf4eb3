"""A reconstruction is asked of the server once, whoever looks at it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloud_server.auth.tokens import Role
from cloud_server.console.pictures import Pictures
from cloud_server.console.sessions import User
from cloud_server.console.upstream import Upstream
from cloud_server.console.view.timeline import Wanted
from cloud_server.consumers.client import AsyncResultClient
from shared.errors import SessionError
from tests.support.console import Running


async def test_a_picture_is_made_once_for_all_who_look(
    stored: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    frame = AsyncResultClient.frame

    async def counted(self: AsyncResultClient, *key: Any, **how: Any) -> Any:
        made.append(key)
        return await frame(self, *key, **how)

    monkeypatch.setattr(AsyncResultClient, "frame", counted)
    upstream = Upstream(stored.server, stored.keys.access(None))
    pictures = Pictures(upstream)
    users = [User(Role.OPERATOR, stored.operator), User(Role.CONSUMER, stored.consumer)]
    try:
        small = [await pictures.thumbnail(user, "cam-2") for user in users * 3]
        assert len(set(small)) == 1
        assert len(made) == 1
        gone = stored.keys.token(Role.CONSUMER)
        stored.keys.revoke(gone)
        with pytest.raises(SessionError) as caught:
            await pictures.thumbnail(User(Role.CONSUMER, gone), "cam-2")
        assert caught.value.reason == "token_revoked"
    finally:
        await upstream.close()


async def test_a_picture_that_nobody_waits_for_any_more_is_not_made(
    stored: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    asked = asyncio.Event()

    async def slow(self: AsyncResultClient, *key: Any, **how: Any) -> Any:
        asked.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(key)

    monkeypatch.setattr(AsyncResultClient, "frame", slow)
    upstream = Upstream(stored.server, stored.keys.access(None))
    pictures = Pictures(upstream)
    frame = Wanted("cam-1", "any", 1, 1)
    try:
        user = User(Role.OPERATOR, stored.operator)
        both = [asyncio.create_task(pictures.get(user, frame)) for _ in range(2)]
        await asked.wait()
        async with asyncio.timeout(20):
            while pictures._coming[frame].waiting < 2:
                await asyncio.sleep(0.01)
        both[0].cancel()
        await asyncio.wait(both[:1])
        assert not ended
        both[1].cancel()
        await asyncio.wait(both)
        async with asyncio.timeout(20):
            while not ended:
                await asyncio.sleep(0.01)
        assert len(ended) == 1
    finally:
        await upstream.close()

"""A reconstruction is asked of the server once, whoever looks at it."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_server.auth.tokens import Role
from cloud_server.console.pictures import Pictures
from cloud_server.console.sessions import User
from cloud_server.console.upstream import Upstream
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

"""Reconstructions over HTTP: made by the server, kept here for a while, few at a time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from cloud_server.console.sessions import User
from cloud_server.console.upstream import Upstream
from shared.proto.featherwire.v1 import results_pb2
from shared.wire.outcome import PictureEncoding, PictureRequest

KEPT_BYTES = 48 * 2**20
AT_ONCE = 2
"""Reconstructions that the console asks for at a time: the server has frames to process."""

WISH = PictureRequest(PictureEncoding.WEBP, 90)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A frame at a state, None: as it was received. cursor: of the record, so that a refined frame
    is another picture than before."""

    device: str
    session: str
    sequence: int
    cursor: int
    state: int | None = None

    @property
    def url(self) -> str:
        """Where this console serves it."""
        at = "" if self.state is None else f"?state={self.state}"
        return f"/picture/{self.device}/{self.session}/{self.sequence}/{self.cursor}{at}"


class Pictures:
    """Gets pictures, each once however many pages wait for it."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._kept: OrderedDict[tuple[str | None, Wanted], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._coming: dict[tuple[str | None, Wanted], asyncio.Task[bytes]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)

    async def get(self, user: User, wanted: Wanted) -> bytes:
        """WebP. Raises ``FeatherwireError``: the server's own."""
        key = (user.token, wanted)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._coming:
            task = asyncio.create_task(self._fetch(user, wanted))
            self._coming[key] = task
            task.add_done_callback(lambda _: self._coming.pop(key, None))
        data = await asyncio.shield(self._coming[key])
        self._keep(key, data)
        return data

    async def _fetch(self, user: User, wanted: Wanted) -> bytes:
        frame = results_pb2.FrameKey(
            device=wanted.device, session=wanted.session, sequence=wanted.sequence
        )
        async with self._places:
            with self._upstream.call(user) as connection:
                _, picture = await connection.results.frame(frame, state=wanted.state, picture=WISH)
        return b"" if picture is None else picture.data

    def _keep(self, key: tuple[str | None, Wanted], data: bytes) -> None:
        if key in self._kept:
            return
        self._kept[key] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > KEPT_BYTES:
            _, old = self._kept.popitem(last=False)
            self._kept_bytes -= len(old)

"""Pictures: reconstructions, made by the server, kept here for a while, few asked for at a time.

Each is made once, however many people look at it: all who read results may see all of them. Whether
somebody still may is asked of the server, with his token.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from PIL import Image

from cloud_server.console.sessions import User
from cloud_server.console.upstream import Upstream
from cloud_server.console.view.timeline import Wanted, wanted
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import results_pb2
from shared.wire.requests import PictureEncoding, PictureRequest

KEPT_BYTES = 48 * 2**20
AT_ONCE = 2
"""Reconstructions that the console asks for at a time: the server has frames to process."""

WISH = PictureRequest(PictureEncoding.WEBP, 90)

THUMBNAIL_SIDE = 160
THUMBNAIL_EVERY_S = 30.0
"""So long a device's thumbnail is shown before a newer frame is reconstructed for one."""

MAX_THUMBNAILS = 2000


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A device's last picture, small, as WebP; empty where there is none. cursor: of its record."""

    data: bytes
    cursor: int
    made_at: float


@dataclass(slots=True, eq=False)
class _Coming:
    """A picture that is being asked for, and how many wait for it."""

    task: asyncio.Task[bytes]
    waiting: int = 0


class Pictures:
    """Gets pictures, each once however many pages wait for it."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._kept: OrderedDict[Wanted, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._coming: dict[Wanted, _Coming] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._thumbnails: OrderedDict[str, Thumbnail] = OrderedDict()
        self._thumbnails_coming: dict[str, asyncio.Task[Thumbnail]] = {}
        # One at a time, so that a page of many devices leaves a place to somebody who looks at one.
        self._thumbnail_place = asyncio.Semaphore(1)

    async def get(self, user: User, frame: Wanted) -> bytes:
        """WebP. Raises ``FeatherwireError``: the server's own. When all who wait for a picture are
        cancelled it is not asked for any more."""
        await self._let_in(user)
        if frame in self._kept:
            self._kept.move_to_end(frame)
            return self._kept[frame]
        coming = self._coming.get(frame)
        if coming is None:
            coming = _Coming(asyncio.create_task(self._fetch(user, frame)))
            self._coming[frame] = coming
        coming.waiting += 1
        try:
            data = await asyncio.shield(coming.task)
        finally:
            coming.waiting -= 1
            if coming.task.done() or not coming.waiting:  # nobody wants it any more
                coming.task.cancel()
                if self._coming.get(frame) is coming:
                    del self._coming[frame]
        self._keep(frame, data)
        return data

    async def thumbnail(self, user: User, device: str) -> bytes:
        """WebP of the device's last frame, or of one half a minute before.

        Raises ``SessionError("not_found")`` where there is none, and the server's own.
        """
        await self._let_in(user)
        known = self._thumbnails.get(device)
        if known is None or time.monotonic() - known.made_at >= THUMBNAIL_EVERY_S:
            if device not in self._thumbnails_coming:
                task = asyncio.create_task(self._make_thumbnail(user, device, known))
                self._thumbnails_coming[device] = task
                task.add_done_callback(lambda _: self._thumbnails_coming.pop(device, None))
            known = await asyncio.shield(self._thumbnails_coming[device])
            self._thumbnails[device] = known
            self._thumbnails.move_to_end(device)
            while len(self._thumbnails) > MAX_THUMBNAILS:
                self._thumbnails.popitem(last=False)
        if not known.data:
            raise SessionError("not_found", f"there is no picture of device {device}")
        return known.data

    async def _let_in(self, user: User) -> None:
        with self._upstream.call(user) as connection:
            await connection.check()

    async def _fetch(self, user: User, frame: Wanted) -> bytes:
        key = results_pb2.FrameKey(
            device=frame.device, session=frame.session, sequence=frame.sequence
        )
        wish = replace(WISH, decoder=frame.decoder)
        async with self._places:
            with self._upstream.call(user) as connection:
                _, picture = await connection.results.frame(key, state=frame.state, picture=wish)
        return b"" if picture is None else picture.data

    def _keep(self, frame: Wanted, data: bytes) -> None:
        if frame in self._kept:
            return
        self._kept[frame] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > KEPT_BYTES:
            _, old = self._kept.popitem(last=False)
            self._kept_bytes -= len(old)

    async def _make_thumbnail(self, user: User, device: str, before: Thumbnail | None) -> Thumbnail:
        async with self._thumbnail_place:
            with self._upstream.call(user) as connection:
                record = await connection.results.newest(device)
            now = time.monotonic()
            if record is None:
                return Thumbnail(b"", 0, now)
            if before is not None and before.cursor == record.cursor:
                return Thumbnail(before.data, before.cursor, now)
            try:
                data = await self.get(user, wanted(record))
            except FeatherwireError as error:
                if error.reason in {"busy", "unreachable", "draining"}:
                    raise
                return Thumbnail(b"", record.cursor, now)  # its bundle makes no pictures
            return Thumbnail(await asyncio.to_thread(_small, data), record.cursor, now)


def _small(data: bytes) -> bytes:
    """A WebP, so that its longer side is ``THUMBNAIL_SIDE`` pixels at most."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        file = io.BytesIO()
        picture.convert("RGB").save(file, "WEBP", quality=70)
    return file.getvalue()

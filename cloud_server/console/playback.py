"""What the player asks for: frames by the batch, the time that the log holds, and marks along it.

The player itself runs in the browser (static/player/), so that it does not jerk with the way to
the console; pictures are those of ``console.pictures``. Nothing here grows with the log: a batch
has a bound, and marks are found by leaping from one place of the time to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from cloud_server.console.context import Console
from cloud_server.console.downloads import refusal
from cloud_server.console.sessions import User
from cloud_server.console.view import overlay, playback
from cloud_server.console.view.playback import Place, Span
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import results_pb2

MAX_SESSIONS = 50
"""Sessions that the player lets one choose from."""

Answer = Callable[[User], Awaitable[dict[str, Any]]]


def router(console: Console) -> APIRouter:
    """Routes of the player."""
    routes = APIRouter()
    marking = asyncio.Semaphore(1)

    async def answered(request: Request, answer: Answer, keep_s: int = 0) -> Response:
        user = await console.user(request)
        if user is None:
            return JSONResponse({"reason": "unauthenticated", "message": "log in again"}, 401)
        try:
            found = await answer(user)
        except FeatherwireError as error:
            return refusal(error)
        except (ValueError, OverflowError, KeyError):
            return JSONResponse({"reason": "bad_filter", "message": "no such place"}, 422)
        kept = f"private, max-age={keep_s}" if keep_s else "no-store"
        return JSONResponse(found, headers={"Cache-Control": kept})

    async def page(user: User, place: Place) -> results_pb2.ListResultsResponse:
        with console.upstream.call(user) as connection:
            return await connection.results.page(place.request())

    async def span(user: User, place: Place) -> Span:
        first = (await page(user, replace(place, after=0, before=None, count=1))).records
        last = (await page(user, replace(place, after=0, before=0, count=1))).records
        if not first or not last:
            return Span(0.0, 0.0)
        return Span(playback.seconds(first[0].completed_at), playback.seconds(last[0].completed_at))

    @routes.get("/playback/{device}/frames")
    async def frames(request: Request, device: str) -> Response:
        """Frames in the order of the log; ``end``: there are no more that way."""

        async def answer(user: User) -> dict[str, Any]:
            place = Place.parse(device, request.query_params)
            try:
                found = await page(user, place)
            except FeatherwireError as error:
                if error.reason != "cursor_expired":
                    raise
                found = await page(user, replace(place, after=0))
            records = found.records[:: -1 if place.before is not None else 1]
            return {"frames": list(map(playback.frame_of, records)), "end": found.end}

        return await answered(request, answer)

    @routes.get("/playback/{device}/span")
    async def time(request: Request, device: str) -> Response:
        """From when to when the log holds frames."""

        async def answer(user: User) -> dict[str, Any]:
            found = await span(user, Place.parse(device, request.query_params))
            return {"first": found.first_s, "last": found.last_s}

        return await answered(request, answer)

    @routes.get("/playback/{device}/marks")
    async def marks(request: Request, device: str) -> Response:
        """Where along the time there is a frame at all, or one with something of ``class_name`` in
        it; and the sessions that were met. ``marks`` are places, 0 to ``of`` - 1."""

        async def answer(user: User) -> dict[str, Any]:
            query = request.query_params
            place = Place.parse(device, query)
            place = replace(place, class_name=query.get("class_name", "")[:128], count=1)
            first, last = playback.second(query["first"]), playback.second(query["last"])
            width = max(last - first, 1e-3) / playback.MARKS
            found: list[int] = []
            sessions: dict[str, None] = {}
            async with marking:
                at = 0
                while at < playback.MARKS and not await request.is_disconnected():
                    records = (await page(user, replace(place, since_s=first + at * width))).records
                    if not records:
                        break
                    done_s = playback.seconds(records[0].completed_at)
                    at = max(at, int((done_s - first) / width))
                    found.append(min(at, playback.MARKS - 1))
                    sessions[records[0].session] = None
                    at += 1
            return {
                "marks": found,
                "of": playback.MARKS,
                "sessions": list(sessions)[-MAX_SESSIONS:],
            }

        return await answered(request, answer)

    @routes.get("/masks/{cursor}")
    async def masks(request: Request, cursor: int) -> Response:
        """The masks of one record, as one picture."""

        async def answer(user: User) -> dict[str, Any]:
            with console.upstream.call(user) as connection:
                record = await connection.results.record(cursor)
            drawn = await asyncio.to_thread(overlay.masks_png, record.outcome.analysis)
            return {"masks": drawn}

        return await answered(request, answer, keep_s=3600)

    return routes

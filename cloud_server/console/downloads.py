"""Downloads: all results that fit a filter, as CSV or as COCO JSON, oldest first."""

from __future__ import annotations

import asyncio
import csv
import io
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.background import BackgroundTask

from cloud_server.console.context import Console
from cloud_server.console.gateway import HEAD
from cloud_server.console.sessions import User
from cloud_server.console.upstream import NOT_LET_IN
from cloud_server.console.view.timeline import Wish
from cloud_server.consumers.reports import report_of
from cloud_server.consumers.result import result_of
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import results_pb2
from shared.sinks import Report
from shared.sinks.coco import CocoSink
from shared.sinks.files import CSV_COLUMNS, csv_rows

PAGE = 250
STATUS_BY_REASON = {"not_found": 404, "bad_state": 409, "busy": 503, "unreachable": 502}


def refusal(error: FeatherwireError) -> Response:
    """The answer to a request that could not be carried out."""
    code = 403 if error.reason in NOT_LET_IN else STATUS_BY_REASON.get(error.reason, 422)
    return JSONResponse({"reason": error.reason, "message": error.message}, code)


def router(console: Console) -> APIRouter:
    """Routes of downloads; their parameters are the fields of :class:`Wish`."""
    routes = APIRouter()

    async def begun(request: Request) -> AsyncIterator[list[Report]] | Response:
        """The pages of what is asked for, the first of which is there; or why there are none."""
        user = await console.user(request)
        if user is None:
            return JSONResponse({"reason": "unauthenticated", "message": "log in again"}, 401)
        try:
            wish = Wish.parse(request.query_params)
            pages = _pages(console, user, wish)
            first: list[Report] = await anext(pages)
        except ValueError:
            return JSONResponse({"reason": "bad_filter", "message": "no such filter"}, 422)
        except FeatherwireError as error:
            return refusal(error)
        return _behind(first, pages)

    @routes.get("/results.csv")
    async def as_csv(request: Request) -> Response:
        pages = await begun(request)
        if isinstance(pages, Response):
            return pages
        lines = _csv_of(pages)
        if HEAD in request.scope:
            await lines.aclose()  # nobody will read them
        return StreamingResponse(
            lines, media_type="text/csv; charset=utf-8", headers=_saved_as(request, "csv")
        )

    @routes.get("/results.coco.json")
    async def as_coco(request: Request) -> Response:
        pages = await begun(request)
        if isinstance(pages, Response):
            return pages
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="featherwire-coco-"))
        try:
            file = folder / "results.coco.json"
            sink = await asyncio.to_thread(CocoSink, file)
            async for reports in pages:
                await asyncio.to_thread(sink.deliver, reports)
            await asyncio.to_thread(sink.close)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, FeatherwireError):
                return refusal(error)
            raise
        return FileResponse(
            file,
            media_type="application/json",
            headers=_saved_as(request, "coco.json"),
            background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True),
        )

    return routes


async def _pages(console: Console, user: User, wish: Wish) -> AsyncIterator[list[Report]]:
    """Raises ``FeatherwireError``, and ``ValueError`` for a time that is none."""
    wanted = wish.to_message()
    after, end = 0, False
    while not end:
        request = results_pb2.ListResultsRequest(filter=wanted, after_cursor=after, page_size=PAGE)
        with console.upstream.call(user) as connection:
            page = await connection.results.page(request)
        after, end = page.next_cursor, page.end
        yield [report_of(result_of(record)) for record in page.records if wish.keeps(record)]


async def _behind(
    first: list[Report], pages: AsyncIterator[list[Report]]
) -> AsyncIterator[list[Report]]:
    yield first
    async for page in pages:
        yield page


async def _csv_of(pages: AsyncIterator[list[Report]]) -> AsyncGenerator[str]:
    """As ``CsvSink`` writes it. A download that the server ends in the middle is broken off."""
    yield _lines([CSV_COLUMNS])
    async for reports in pages:
        yield _lines([row for report in reports for row in csv_rows(report)])


def _lines(rows: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]
    return text.getvalue()


def _saved_as(request: Request, suffix: str) -> dict[str, str]:
    device = request.query_params.get("device", "")
    name = "".join(one if one.isalnum() or one in "._-" else "-" for one in device if one.isascii())
    file = f"featherwire-results{f'-{name}' if name else ''}.{suffix}"
    return {"Content-Disposition": f'attachment; filename="{file}"', "Cache-Control": "no-store"}

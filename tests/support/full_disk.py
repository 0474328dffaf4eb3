"""A server whose database is full, until it is not."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection, text

from tests.support.servers import ServerThread


def fill_disk(server: ServerThread, spare_pages: int | None) -> None:
    """Let the log grow by so many pages and no more; None: as it likes."""

    def change(connection: Connection) -> None:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        most = 2**30 if spare_pages is None else pages + spare_pages
        connection.execute(text(f"PRAGMA max_page_count = {most}")).scalar()

    database = server.server._log.database
    asyncio.run_coroutine_threadsafe(database.write(change), server._loop).result(10)

"""A server whose database is full, until it is not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from tests.support.servers import ServerThread


def fill_disk(server: ServerThread, spare_pages: int | None) -> None:
    """Let the log grow by so many pages and no more; None: as it likes."""

    def change(connection: Connection) -> None:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        most = 2**30 if spare_pages is None else pages + spare_pages
        connection.execute(text(f"PRAGMA max_page_count = {most}")).scalar()

    _write(server, change)


def leave_room_for(server: ServerThread, message_bytes: int | None) -> None:
    """Let the log have room for messages up to this size, and none for larger ones; None: for all.

    As on a disk that has little room, but to the byte.
    """

    def change(connection: Connection) -> None:
        connection.execute(text("DROP TRIGGER IF EXISTS too_large"))
        if message_bytes is not None:
            connection.execute(
                text(
                    "CREATE TRIGGER too_large BEFORE INSERT ON submissions WHEN "
                    f"NEW.message_bytes > {message_bytes} BEGIN "
                    "SELECT RAISE(ABORT, 'database or disk is full'); END"
                )
            )

    _write(server, change)


def _write(server: ServerThread, change: Callable[[Connection], None]) -> None:
    database = server.server._log.database
    asyncio.run_coroutine_threadsafe(database.write(change), server._loop).result(60)


@contextmanager
def slow_disk(server: ServerThread) -> Iterator[None]:
    """What the log is given in here it takes up afterwards."""
    begun, end = threading.Event(), threading.Event()

    def hold_up(_connection: Connection) -> None:
        begun.set()
        assert end.wait(60)

    database = server.server._log.database
    held = asyncio.run_coroutine_threadsafe(database.write(hold_up), server._loop)
    try:
        assert begun.wait(60)
        yield
    finally:
        end.set()
        held.result(60)

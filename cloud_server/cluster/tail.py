"""What any server has written comes to those who follow the log here, in the order of cursors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from cloud_server.cluster.turn import CHANNEL
from cloud_server.database import Database
from shared.errors import StorageError

POLL_S = 0.5
"""A server that was not woken, or cannot be (PgBouncer), looks so often."""

GATHER_S = 0.02
"""Commits that come so close together are looked at once."""

AGAIN_S = 5.0
_LISTEN_S = 1.0

Look = Callable[[], Awaitable[None]]


class Tail:
    """Calls ``looks`` after every commit of any server. Used on one event loop."""

    def __init__(self, database: Database, looks: Sequence[Look]) -> None:
        self._database = database
        self._looks = looks
        self._woken = asyncio.Event()
        self._closed = threading.Event()
        self._loop: asyncio.AbstractEventLoop

    def wake(self) -> None:
        """Something was committed here."""
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        self._loop = asyncio.get_running_loop()
        listener = threading.Thread(target=self._listen, name="featherwire-listen", daemon=True)
        listener.start()
        try:
            while True:
                try:
                    async with asyncio.timeout(POLL_S):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                await asyncio.sleep(GATHER_S)
                self._woken.clear()
                for look in self._looks:
                    try:
                        await look()
                    except StorageError as error:
                        structlog.get_logger().warning("not_followed", **error.to_dict())
        finally:
            self._closed.set()

    def _listen(self) -> None:
        """In a thread of its own: psycopg waits for notifications, or for a second."""
        while not self._closed.is_set():
            try:
                with self._database.engine.connect() as connection:
                    connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                    connection.execute(text(f"LISTEN {CHANNEL}"))
                    driver = connection.connection.driver_connection
                    assert driver is not None
                    while not self._closed.is_set():
                        for _ in driver.notifies(timeout=_LISTEN_S, stop_after=1):
                            self._loop.call_soon_threadsafe(self.wake)
                    connection.execute(text(f"UNLISTEN {CHANNEL}"))
            except (SQLAlchemyError, OSError, RuntimeError) as error:
                structlog.get_logger().warning("not_listening", error=str(error)[:300])
                self._closed.wait(AGAIN_S)
            except Exception as error:  # noqa: BLE001  # psycopg's own
                structlog.get_logger().warning("not_listening", error=str(error)[:300])
                self._closed.wait(AGAIN_S)

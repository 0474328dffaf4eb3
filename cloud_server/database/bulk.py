"""Many rows by one statement, past what SQLAlchemy does for each row of an executemany."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Insert

Row = dict[str, Any]


class BulkInsert:
    """An INSERT that is compiled once. Rows are values as the driver takes them, all of one shape.

    The names in a row are those of its columns, two at least.
    """

    def __init__(self, statement: Insert) -> None:
        self._statement = statement
        self._compiled: tuple[str, itemgetter[Any] | None] | None = None

    def __call__(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Add rows, one at least; returns how many were added."""
        if self._compiled is None:
            compiled = self._statement.compile(
                dialect=connection.dialect, column_keys=list(rows[0])
            )
            names = compiled.positiontup if compiled.positional else None
            self._compiled = (str(compiled), itemgetter(*names) if names else None)
        text, values = self._compiled
        done = connection.exec_driver_sql(
            text,
            list(rows) if values is None else list(map(values, rows)),
            execution_options={"preserve_rowcount": True},
        )
        return done.rowcount

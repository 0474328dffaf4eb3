"""Tables for people, in which a name is whole however long it is; and their columns about rates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.bitstream import Bitstream

# Into a file or a pipe: more than any row of file names takes.
_UNBOUNDED_COLUMNS = 2**20
RATE_COLUMNS: Mapping[str, str] = {
    "state": "state",
    "passes": "passes",
    "bytes": "bytes",
    "bits_per_pixel": "bits/pixel",
}
"""Keys of :func:`rate_record`, each with the heading of its column."""


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Collection[str] = (),
    unbroken: Collection[str] = (),
    title: str | None = None,
) -> None:
    """Print on stdout; a terminal's long cells fold, and without a terminal no line is broken.

    right: headings of columns that stand at the right. unbroken: of those with short words that
    do not fold; only a terminal too narrow for these alone cuts them.
    Cells are taken as they are: brackets in a file's name are no markup.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=heading in unbroken,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    if not console.is_terminal:
        console.width = _UNBOUNDED_COLUMNS
    console.print(table)


def rate_record(bitstream: Bitstream) -> dict[str, Any]:
    """The finest complete state, the passes of the next layer, and the size of the whole file."""
    return {
        "state": bitstream.state,
        "passes": bitstream.passes,
        "bytes": bitstream.file_bytes,
        "bits_per_pixel": round(bitstream.bits_per_pixel, 6),
    }

"""The console's pages, one a file; ``frame`` is what they have in common, ``parts`` what they are
made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloud_server.console.pages import commands, device, fleet, rates, results

if TYPE_CHECKING:
    from cloud_server.console.app import Console


def register(console: Console) -> None:
    """Give NiceGUI every page."""
    for page in (fleet, device, results, rates, commands):
        page.register(console)

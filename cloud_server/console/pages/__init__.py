"""The console's pages, one a file; ``parts`` is what they are made of."""

from cloud_server.console.context import Console
from cloud_server.console.pages import commands, device, fleet, play, rates, results
from cloud_server.console.pages.parts import add_page


def register(console: Console) -> None:
    """Give NiceGUI every page."""
    add_page(console, "/", "Fleet", fleet.build)
    add_page(console, "/device/{name}", "Device", device.build)
    add_page(console, "/play/{name}", "Playback", play.build)
    add_page(console, "/results", "Results", results.build)
    add_page(console, "/rates", "Rates", rates.build)
    add_page(console, "/commands", "Commands", commands.build)

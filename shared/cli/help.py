"""The help of commands: options in groups, which are the same in every command of a program."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Panels = Mapping[str, Collection[str]]
"""Headings, in their order, each with its options by their long names."""

OUTPUT: Collection[str] = ("--output", "--json")
SECURITY: Collection[str] = (
    "--server",
    "--tls",
    "--tls-ca",
    "--tls-cert",
    "--tls-key",
    "--tls-name",
    "--tls-client-ca",
    "--token-file",
    "--timeout",
    "--insecure",
    "--insecure-anywhere",
)
SINKS: Collection[str] = ("--to", "--give-up-after", "--cursor-file")


def arrange(command: Any, panels: Panels) -> None:
    """Put the options of a command, and of all below it, under the headings of ``panels``; those
    that have none stay first. Lines of a paragraph in its help become one, which terminals wrap."""
    if command.help:
        command.help = one_line_a_paragraph(command.help)
    places = {name: panel for panel, names in panels.items() for name in names}
    order = {panel: number for number, panel in enumerate(panels, 1)}
    for option in command.params:
        panel = next((places[name] for name in option.opts if name in places), None)
        if panel is not None and option.rich_help_panel is None:
            option.rich_help_panel = panel
    command.params.sort(key=lambda option: order.get(option.rich_help_panel, 0))
    for below in getattr(command, "commands", {}).values():
        arrange(below, panels)


def one_line_a_paragraph(text: str) -> str:
    """Paragraphs stay apart; line breaks in them go, but before what is indented."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        part if "\n " in part or part.startswith((" ", "\b")) else " ".join(part.split("\n"))
        for part in paragraphs
    )

"""Help: options in groups, and words for people."""

from __future__ import annotations

import pytest
import typer

from cloud_server.cli import build_app as cloud
from edge_client.cli import build_app as edge
from shared.cli.help import one_line_a_paragraph
from tests.support.commands import run


@pytest.mark.parametrize(
    ("build", "path", "panels"),
    [
        (edge, ["stream"], {"Source", "Rate", "Server and security", "Spool", "Sinks", "Output"}),
        (edge, ["encode"], {"Rate", "Features", "Output"}),
        (cloud, ["serve"], {"Analysis", "Storage", "Server and security", "Refinement"}),
        (cloud, ["results", "watch"], {"Server and security", "Sinks", "Output"}),
    ],
)
def test_options_are_in_groups(build: typer.Typer, path: list[str], panels: set[str]) -> None:
    command = typer.main.get_command(build())  # type: ignore[operator]
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    found = {option.rich_help_panel for option in command.params}  # type: ignore[attr-defined]
    assert panels <= found
    lone = [
        option.opts for option in command.params
        if option.param_type_name == "option" and option.rich_help_panel is None  # type: ignore[attr-defined]
    ]  # fmt: skip
    assert len(lone) <= 8, lone


@pytest.mark.parametrize("recipe", ["picture", "detect", "classify"])
def test_the_help_of_a_step_is_for_people(recipe: str) -> None:
    from codec.kit.recipe import open_recipe

    for step in open_recipe(recipe)[0].steps:
        said = run("training", step.name, "--recipe", recipe, "--help").stdout
        assert "Usage:" in said
        for word in ("``", "Raises", ":class:", "RecipeError"):
            assert word not in said, (step.name, word)


def test_lines_of_a_paragraph_are_one() -> None:
    text = "What it\ndoes.\n\nMore\nof it.\n\n  a\n  list"
    assert one_line_a_paragraph(text) == "What it does.\n\nMore of it.\n\n  a\n  list"

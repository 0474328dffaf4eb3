"""featherwire-train STEP --recipe R: the steps of whichever codec the recipe names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from shared.cli import JsonOption, print_document, stop_on_error
from shared.cli.app import Program, asks_json
from shared.cli.help import arrange

if TYPE_CHECKING:
    from typer._click.core import Command, Context

    from codec.base import TrainingStep

RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="Recipe file, or the name of a codec's. Default: picture."),
]
ChangeOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change the recipe: PART.KEY=VALUE. Repeatable."),
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", help="Folder of this run's results. Default: runs/NAME of the recipe."),
]


def register(app: typer.Typer) -> None:
    """Add the command ``steps``, and have other words looked up among the recipe's steps."""
    app.info.cls = StepGroup
    app.command("steps")(steps)


def steps(recipe: RecipeOption = None, as_json: JsonOption = False) -> None:
    """List the steps of a recipe, in the order in which they run."""
    from codec.kit.recipe import open_recipe

    with stop_on_error(as_json=as_json):
        trainer, _ = open_recipe(recipe)
    rows = [
        {"step": step.name, "summary": step.summary, "reads": list(step.reads)}
        for step in trainer.steps
    ]
    if as_json:
        print_values({"steps": rows}, as_json)
        return
    for row in rows:
        typer.echo(f"{row['step']:10} {row['summary']}")


class StepGroup(Program):
    """Commands, and the steps of the recipe that the command line names."""

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        """A command by its name, else a step."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            with stop_on_error(as_json=asks_json(args)):
                command = _step_command(args[0], _recipe_in(args))
            if command is not None:
                return args[0], command, args[1:]
        return super().resolve_command(ctx, args)


def run_step(
    step: TrainingStep[Any], recipe: Any, run: Path, options: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Run a step with a progress bar on stderr; of ``options`` those that it has."""
    known = inspect.signature(step.run).parameters
    run.mkdir(parents=True, exist_ok=True)
    with progress_bar(step.name) as report:
        return step.run(recipe, run, report, **{k: v for k, v in options.items() if k in known})


def print_values(values: Mapping[str, Any], as_json: bool) -> None:
    """A command's result on stdout: one JSON document, or a line for each value."""
    if as_json:
        print_document(values)
        return
    for key, value in values.items():
        typer.echo(f"{key.replace('_', ' ')}: {value}")


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """A progress bar on stderr: call it with what is done, of how much (0: unknown), figures."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None, figures="")

        def report(done: int, total: int, figures: Mapping[str, float]) -> None:
            text = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
            progress.update(task, completed=done, total=total or None, figures=text)

        yield report


def _recipe_in(args: Sequence[str]) -> str | None:
    """What ``--recipe`` says, before anything is parsed."""
    for word, following in zip(args, [*args[1:], None], strict=True):
        if word == "--recipe":
            return following
        if word.startswith("--recipe="):
            return word.partition("=")[2]
    return None


def _step_command(name: str, which: str | None) -> Command | None:
    """A step of the recipe as a command; None when it has no such step."""
    from codec.kit.recipe import open_recipe

    trainer, _ = open_recipe(which)
    step = next((one for one in trainer.steps if one.name == name), None)
    if step is None:
        return None

    def command(
        recipe: str | None, run: Path | None, change: list[str] | None, as_json: bool, **more: Any
    ) -> None:
        with stop_on_error(as_json=as_json):
            _, followed = open_recipe(recipe, change or ())
            values = run_step(step, followed, run or Path("runs") / followed.name, more)
        print_values(values, as_json)

    common = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for key, default, kind in (
            ("recipe", None, RecipeOption),
            ("run", None, RunOption),
            ("change", None, ChangeOption),
            ("as_json", False, JsonOption),
        )
    ]
    own = _options(step.run)
    command.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in [*own, *common]}
    app = typer.Typer(add_completion=False)
    help_text = _for_people(inspect.getdoc(step.run) or step.summary)
    app.command(name, help=help_text)(command)
    made = typer.main.get_command(app)
    arrange(made, Program.panels)
    return made


_RAISES = re.compile(r"(?:^|\s+)Raises\s[^.]*(?:\.(?=\s|$)|$)")
_ROLE = re.compile(r":\w+:`([^`]*)`")


def _for_people(docstring: str) -> str:
    """A docstring as help: without what it says to programmers."""
    text = _ROLE.sub(r"\1", _RAISES.sub("", docstring)).replace("``", "`")
    return "\n\n".join(part.strip() for part in text.split("\n\n") if part.strip())


def _options(run: Callable[..., Any]) -> list[inspect.Parameter]:
    """A step's keyword arguments as options; their annotations carry their help."""
    hints = get_type_hints(run, include_extras=True)
    found = []
    for parameter in inspect.signature(run).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        kind, text = get_args(hints[parameter.name])[:2]
        flags = ("-o", "--output") if parameter.name == "output" else ()
        option = typer.Option(*flags, help=_for_people(text))
        annotation = Annotated[kind, option]  # type: ignore[valid-type]  # known when it runs
        found.append(parameter.replace(annotation=annotation))
    return found

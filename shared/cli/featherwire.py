"""featherwire: which release this is, what of it is installed, and what an installation lacks."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from shared.cli.app import Program, VersionOption, asks_json
from shared.cli.exits import ExitCode
from shared.cli.options import JsonOption
from shared.cli.output import print_document, print_error
from shared.errors import FeatherwireError
from shared.installation import install_command

if TYPE_CHECKING:
    from shared.doctor import Report, Role, State

PARTS: Mapping[str, tuple[str, str]] = {
    "edge": ("edge", "On devices: photos to features, sent over a session that loses nothing."),
    "cloud": ("cloud,tasks", "On servers: receive, analyse, log, command devices; decode files."),
    "train": ("train", "Make a bundle from photos, and measure it."),
}
"""The other commands: the extras that each needs, and what it is for."""

_ABOUT = (
    "Cameras send features, not pictures. This command finds the three others and says what an "
    "installation lacks; without arguments it lists them."
)
_PASS_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}
_COLOURS: Mapping[State, str] = {
    "ok": "green",
    "optional": "blue",
    "warning": "yellow",
    "problem": "red",
}

ForOption = Annotated[
    list[str] | None,
    typer.Option(
        "--for",
        metavar="edge|cloud|train",
        help="What this installation must be able to do; may be repeated. "
        "Default: what its packages show it to be for.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="FEATHERWIRE_DATA", help="The server's data folder, as for `serve`."
    ),
]
SpoolOption = Annotated[
    Path | None, typer.Option("--spool", help="A device's spool folder, which is checked too.")
]
ModelsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--models-dir",
        envvar="FEATHERWIRE_MODELS_DIR",
        help="A folder of weights, searched before the cache; may be repeated.",
    ),
]


def build_app() -> typer.Typer:
    """The command line: doctor, and the three other commands to pass on to."""
    app = typer.Typer(
        name="featherwire",
        cls=Program,
        help=_ABOUT,
        invoke_without_command=True,
        pretty_exceptions_show_locals=False,
        add_completion=False,
        rich_markup_mode="rich",
    )
    app.callback()(_overview)
    app.command("doctor")(doctor)
    for part, (_, purpose) in PARTS.items():
        app.command(
            part, help=f"{purpose} The same as featherwire-{part}.",
            context_settings=_PASS_ON, add_help_option=False,
        )(_pass_on)  # fmt: skip
    return app


def main() -> None:
    """Entry point of the console script."""
    build_app()()


def doctor(
    roles: ForOption = None,
    data: DataOption = None,
    spool: SpoolOption = None,
    models_dir: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this installation and this machine: what is there, what is missing, and how to mend it.

    Exit status: 0 when nothing that is needed is missing, 1 otherwise, 2 wrong usage.
    """
    from shared.doctor import Places, examine

    places = Places(data=data, spool=spool, models=tuple(models_dir or ()))
    report = examine(_roles(roles) if roles else None, places)
    if as_json:
        print_document(report.to_dict())
    else:
        _print(report)
    if not report.healthy:
        raise typer.Exit(ExitCode.SOME_FAILED)


def _overview(context: typer.Context, show: VersionOption = False) -> None:
    # With a docstring this would be the help in place of _ABOUT.
    del show
    if context.invoked_subcommand is not None:
        return
    from shared.doctor import Installed

    installed = Installed.here()
    typer.echo(f"Featherwire {installed.release or '(not installed: a source tree)'}\n")
    for part, (extras, purpose) in PARTS.items():
        lacks = [lack for extra in extras.split(",") for lack in installed.missing(extra)]
        path = _program(part)
        if path is None or lacks or installed.release is None:
            state = typer.style("not installed", fg="yellow")
            typer.echo(f"  featherwire-{part:<6} {state}: {install_command(extras)}")
        else:
            typer.echo(f"  featherwire-{part:<6} {typer.style('ready', fg='green')}: {path}")
        typer.echo(f"  {'':18} {purpose}")
    typer.echo(
        "\n`featherwire edge ...` is `featherwire-edge ...`; `featherwire doctor` checks all."
    )


def _pass_on(context: typer.Context) -> NoReturn:
    part = context.info_name or ""
    path = _program(part)
    if path is None:
        extras, _ = PARTS[part]
        absent = FeatherwireError(
            "missing_command",
            f"there is no featherwire-{part} here; get it with: {install_command(extras)}",
        )
        print_error(absent, as_json=asks_json(context.args))
        raise typer.Exit(ExitCode.MISSING)
    sys.stdout.flush()
    os.execv(path, [path, *context.args])


def _program(part: str) -> str | None:
    """The path of featherwire-``part``: beside this Python, else where the shell would find it."""
    name = f"featherwire-{part}"
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _roles(words: list[str]) -> tuple[Role, ...]:
    from shared.doctor.finding import ROLES

    unknown = [word for word in words if word not in ROLES]
    if unknown:
        raise typer.BadParameter(
            f"no part {unknown[0]!r}; there are {', '.join(ROLES)}", param_hint="--for"
        )
    return tuple(role for role in ROLES if role in words)


def _print(report: Report) -> None:
    roles = ", ".join(report.roles) or "nothing yet"
    typer.echo(f"Featherwire {report.release or '(not installed)'}, needed here for: {roles}")
    area = ""
    for finding in report.findings:
        if finding.area != area:
            area = finding.area
            typer.echo(f"\n{typer.style(area, bold=True)}")
        state = typer.style(f"{finding.state:<9}", fg=_COLOURS[finding.state])
        typer.echo(f"  {state} {finding.name}: {finding.found}")
        if finding.mend is not None:
            typer.echo(f"  {'':9} mend: {finding.mend}")
    problems = sum(finding.state == "problem" for finding in report.findings)
    warnings = sum(finding.state == "warning" for finding in report.findings)
    typer.echo(
        f"\n{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    )


if __name__ == "__main__":
    main()

"""One command line from the modules of its commands, with ``--version``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import typer
from typer.core import TyperGroup

from shared.cli.exits import ExitCode
from shared.cli.help import OUTPUT, Panels, arrange
from shared.cli.output import print_error, print_line
from shared.errors import FeatherwireError
from shared.installation import NO_RELEASE, install_command, package_version
from shared.rpc.proxies import reach_loopback_directly

if TYPE_CHECKING:
    from typer._click.core import Context

_AS_JSON = "featherwire.as_json"
_USAGE_ERROR: type[BaseException] = typer.BadParameter.__bases__[0]
"""All that is wrong with a command line, wherever this release of typer has it from."""

OUR_PACKAGES = frozenset({"shared", "codec", "edge_client", "cloud_server", "training"})


class Program(TyperGroup):
    """A command line that says in JSON too, where that was asked for, how it was used wrongly; its
    help has options in groups."""

    panels: ClassVar[Panels] = {"Output": OUTPUT}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        arrange(self, self.panels)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: Context | None = None,
        **extra: Any,
    ) -> Context:
        """As any group's; for the outermost one errors of usage are told."""
        as_json = asks_json(args)
        with _usage_told(as_json):
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[_AS_JSON] = as_json
        return context

    def invoke(self, ctx: Context) -> Any:
        """As any group's; errors of usage are told."""
        with _usage_told(bool(ctx.meta.get(_AS_JSON))):
            return super().invoke(ctx)


def asks_json(words: Sequence[str]) -> bool:
    """Whether ``--json`` is among the words of a command line."""
    return "--json" in words[: words.index("--") if "--" in words else None]


def build_app(
    name: str, about: str, package: str, modules: Sequence[str], panels: Panels | None = None
) -> typer.Typer:
    """An app with ``--version`` and the commands that ``package``'s ``modules`` register.

    panels: the groups of options in its help.
    A module registers with ``register(app)``, and imports what is heavy only when a command runs.
    """
    app = typer.Typer(
        name=name,
        cls=Program if panels is None else type("Program", (Program,), {"panels": panels}),
        help=about,
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        add_completion=False,
        rich_markup_mode="rich",
    )
    add_version(app)
    for module in modules:
        import_module(f"{package}.{module}").register(app)
    return app


def run(app: typer.Typer, extras: str) -> None:
    """Run a command line. Where a library is missing it prints how to get it, and ends with 3.

    extras: those that bring what these commands import, as pip takes them: ``"cloud,tasks"``.
    """
    forget_blank_variables(os.environ)
    reach_loopback_directly()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except ModuleNotFoundError as missing:
        library = (missing.name or "").partition(".")[0]
        if not library or library in OUR_PACKAGES:
            raise
        needed = FeatherwireError(
            "missing_extra",
            f"this command needs the library {library}, which is not installed; get it with: "
            f"{install_command(extras)}",
        )
        print_error(needed, as_json=asks_json(sys.argv[1:]))
        raise SystemExit(ExitCode.MISSING) from None


@contextmanager
def _usage_told(as_json: bool) -> Iterator[None]:
    """Print what is wrong with a command line as JSON, before it is printed for people."""
    try:
        yield
    except _USAGE_ERROR as error:
        if as_json:
            wrong = FeatherwireError("usage", cast(typer.BadParameter, error).format_message())
            print_line({"error": wrong.to_dict()})
        raise


def forget_blank_variables(variables: MutableMapping[str, str]) -> None:
    """A setting that is blank is not set: Compose's ``${X:-}`` and unit files give such."""
    for name, value in list(variables.items()):
        if name.startswith("FEATHERWIRE_") and not value.strip():
            del variables[name]


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    release = package_version()
    typer.echo("unknown: not installed" if release == NO_RELEASE else release)
    raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version)
]


def add_version(app: typer.Typer) -> None:
    """Give ``app`` the option ``--version``."""

    @app.callback()
    def options(show: VersionOption = False) -> None:
        del show

"""docker-compose.yml as Compose reads it, and its services as processes of this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
PACKAGES = {"featherwire-edge": "edge_client", "featherwire-cloud": "cloud_server"}


def read(file: Path = FILE) -> dict[str, Any]:
    """The file with its anchors and merges resolved, and every variable at its default."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", file.read_text())
    document = yaml.safe_load(text)
    assert isinstance(document, dict)
    return document


def parse(program: str, words: list[str]) -> None:
    """Parse a command line of ours as the program does, without running it.

    Raises ``click.UsageError`` for a command, option or value that there is not.
    """
    from importlib import import_module

    app = import_module(f"{PACKAGES[program]}.cli").build_app()
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name=program)
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, words)
        context = typer.Context(command, info_name=name, parent=context)
    command.make_context(command.name, list(words))


@dataclass(frozen=True)
class Machine:
    """Runs services as this machine's own processes, with their own commands and settings.

    ``moved``: what paths and addresses of the containers are here.
    """

    folder: Path
    moved: dict[str, str]

    def start(self, service: dict[str, Any], entrypoint: list[str]) -> subprocess.Popen[bytes]:
        """Start a service; ``entrypoint`` is its image's. What it prints goes to ``folder/log``."""
        own = service.get("entrypoint", entrypoint)
        words = [self.here(word) for word in [*own, *service.get("command", [])]]
        settings = {
            name: self.here(value) for name, value in service.get("environment", {}).items()
        }
        environment = {**os.environ, **settings, "PATH": self._path(), "PYTHONPATH": str(ROOT)}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=self.folder)

    def run(self, service: dict[str, Any], entrypoint: list[str], timeout_s: float = 60) -> int:
        """Run a service to its end; its exit status."""
        return self.start(service, entrypoint).wait(timeout_s)

    def here(self, text: str) -> str:
        """``text`` with what is moved in its place here."""
        places = sorted(self.moved, key=len, reverse=True)
        pattern = "|".join(map(re.escape, places))
        return re.sub(pattern, lambda found: self.moved[found[0]], text)

    def copy(self, file: Path) -> Path:
        """A copy of a file of ours with what is moved in its place here."""
        copied = self.folder / file.name
        copied.write_text(self.here(file.read_text()))
        copied.chmod(file.stat().st_mode)
        return copied

    def _path(self) -> str:
        """Our commands, of this tree, before all others."""
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        for name, package in PACKAGES.items():
            program = programs / name
            if not program.exists():
                program.write_text(f"#!{sys.executable}\nfrom {package}.cli import main; main()\n")
                program.chmod(0o755)
        return os.pathsep.join(
            [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        )


DEPLOY = ROOT / "deploy"


DASHBOARDS = DEPLOY / "grafana" / "dashboards"


DASHBOARD: dict[str, Any] = json.loads((DASHBOARDS / "featherwire.json").read_text())

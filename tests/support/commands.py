"""Our commands: in this process, or as processes where that is what is tested."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module

import structlog
from typer.testing import CliRunner

from tests.support.json_output import documents
from tests.support.servers import ROOT


def run(package: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ``package`` in this process, which has the libraries loaded.

    Its output and its exit status are those of the process, without what goes past Python (gRPC's
    core) or by way of ``logging``. What it prints with ``--json`` is held to the schema.
    """
    app = import_module(f"{package}.cli").build_app()
    logs = structlog.get_config()
    # A server in this process may log meanwhile, which is nothing that the command prints.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
    try:
        done = CliRunner(env=variables).invoke(app, arguments)
    finally:
        structlog.configure(**logs)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if "--json" in arguments and "--help" not in arguments:
        documents(package, arguments, done.stdout)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def run_process(
    package: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of ``package`` as a process of its own."""
    code = f"from {package}.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, env=environment, timeout=90,
    )  # fmt: skip

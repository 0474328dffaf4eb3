"""`--json` is one rule for all commands, and what they print is what the schema says."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cloud_server.cli import build_app as cloud
from edge_client.cli import build_app as edge
from shared.bundle import Bundle
from shared.cli.featherwire import build_app as featherwire
from tests.support.commands import run
from tests.support.json_output import documents, schema
from tests.support.servers import ROOT, FixedTask, ServerThread
from training.cli import build_app as train

Start = Callable[..., ServerThread]
PASSED_ON = {"featherwire edge", "featherwire cloud", "featherwire train"}
ALWAYS = {"featherwire-cloud console"}
"""Has nothing to print but its log."""


def commands() -> Iterator[tuple[str, Any]]:
    """All commands by their words."""
    for build in (featherwire, edge, cloud, train):
        app = build()
        root = typer.main.get_command(app)
        yield from _below(str(app.info.name), root)


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    for name, one in getattr(command, "commands", {}).items():
        yield from _below(f"{path} {name}", one)
    if not getattr(command, "commands", {}):
        yield path, command


def test_the_published_schema_is_that_of_this_release() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "_site" / "schema.py"))["text"]()
    published = (ROOT / "docs" / "reference" / "commands.schema.json").read_text()
    assert made == published, "run: python docs/_site/schema.py"


def test_every_command_has_json_and_a_schema() -> None:
    found = dict(commands())
    without = {
        path for path, command in found.items()
        if not any("--json" in option.opts for option in command.params)
    }  # fmt: skip
    assert without == PASSED_ON | ALWAYS
    described = {name for name in schema()["$defs"] if name.startswith("featherwire")}
    assert described == (set(found) - without) | {"featherwire-train STEP"}


@pytest.mark.parametrize(
    "words",
    [
        ("edge_client", "encode", "photo.jpg"),
        ("edge_client", "encode", "photo.jpg", "-o", "out", "--bpp", "nan"),
        ("edge_client", "send", "photo.jpg", "--server", "nowhere"),
        ("edge_client", "stream", "photo.jpg", "--server", "127.0.0.1:1", "--token-file", "none"),
        ("edge_client", "flush", "--server", "127.0.0.1:1", "--spool", "no-such-folder"),
        ("cloud_server", "results", "list"),
        ("cloud_server", "results", "frame", "1", "--server", "a:1", "-o", "x", "--state", "z"),
        ("cloud_server", "fleet", "rate", "--server", "a:1", "--all", "--bandwidth", "fast"),
        ("cloud_server", "serve", "--credits", "many"),
        ("cloud_server", "serve", "--keep-days", "-1"),
        ("cloud_server", "auth", "token", "create", "--role", "emperor"),
        ("training", "evaluate"),
        ("training", "consistency", "--nonsense"),
    ],
)  # fmt: skip
def test_wrong_usage_is_told_in_json_too(words: tuple[str, ...]) -> None:
    done = run(*words, "--json")
    assert done.returncode == 2
    (document,) = documents(words[0], words[1:], done.stdout)
    assert document["error"]["message"]
    assert "rror" in done.stderr  # people are told, too


def test_without_json_nothing_is_on_stdout() -> None:
    assert run("edge_client", "encode", "photo.jpg").stdout == ""


def test_what_the_system_refuses_is_told_without_a_traceback(
    tmp_path: Path, server: str, tiny_bundle: Bundle, photo_files: dict[str, Path]
) -> None:
    address = ("--server", server, "--bundle", tiny_bundle.origin)
    run("edge_client", "send", str(photo_files["flower"]), *address, "--tasks", "none")
    (tmp_path / "file").write_text("no folder")
    done = run(
        "cloud_server", "results", "frame", "1", "--server", server,
        "-o", str(tmp_path / "file" / "frame.fwf"), "--json",
    )  # fmt: skip
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["reason"] == "io_error"


def test_files_and_frames_from_camera_to_log(
    tmp_path: Path, start_server: Start, tiny_bundle: Bundle, photo_files: dict[str, Path]
) -> None:
    """Every command of both ends that needs no more than a server; ``run`` checks the schema."""
    address = start_server({"calm": lambda: FixedTask("calm")}).address
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    photo, bundle = str(photo_files["flower"]), ("--bundle", tiny_bundle.origin)
    out, to = str(tmp_path / "out"), ("--server", address)
    file = f"{out}/flower.fwf"

    def ask(package: str, *words: str, code: int = 0) -> Any:
        done = run(package, *words, "--json")
        assert done.returncode == code, done.stderr
        return documents(package, words, done.stdout)

    ask("edge_client", "encode", photo, str(broken), "-o", out, *bundle, code=1)
    ask("edge_client", "inspect", file)
    ask("edge_client", "truncate", file, "--state", "3", "-o", f"{out}/3")
    ask("cloud_server", "decode", file, "-o", out, *bundle)
    ask("cloud_server", "analyze", file, "--tasks", "none", *bundle)
    ask("edge_client", "send", photo, *to, *bundle, "--device", "cam", "-o", out)
    ask("edge_client", "send", photo, "--server", "127.0.0.1:1", "--timeout", "0.1",
        "--spool", f"{out}/spool", *bundle, "--device", "cam-2")  # fmt: skip
    ask("edge_client", "flush", *to, "--spool", f"{out}/spool")
    lines = ask("edge_client", "stream", photo, str(broken), *to, *bundle, "--device", "cam-3",
                "--status-every", "0.1", code=1)  # fmt: skip
    events = [line["event"] for line in lines]
    assert {"connection", "unreadable", "result", "end"} <= set(events)
    assert events[-1] == "end"
    (listed,) = ask("cloud_server", "results", "list", *to)
    assert [one["device"] for one in listed["results"]] == ["cam", "cam-2", "cam-3"]
    watched = ask("cloud_server", "results", "watch", *to, "--after", "0", "--limit", "3")
    assert watched == listed["results"]
    assert ask("cloud_server", "results", "get", "1", *to) == listed["results"][:1]
    ask("cloud_server", "results", "frame", "1", *to, "-o", f"{out}/frame.fwf", "--picture")
    (devices,) = ask("cloud_server", "fleet", "list", *to)
    (first, *_) = ask("cloud_server", "fleet", "watch", *to, "--limit", "3")
    assert first.keys() == devices["devices"][0].keys()
    for words in (("rate", "--fps", "2"), ("tasks", "none"), ("roi", "0,0,0.5,1:2")):
        (sent,) = ask("cloud_server", "fleet", *words, *to, "--device", "cam")
        assert [one["device"] for one in sent["sent"]] == ["cam"]
    ask("cloud_server", "fleet", "bundle", tiny_bundle.id, *to, "--all")
    ask("cloud_server", "fleet", "refine", "cam", "1", *to)
    ask("cloud_server", "fleet", "commands", *to)
    ask("cloud_server", "fleet", "cancel", *to, "--device", "cam")
    ask("cloud_server", "fleet", "forget", *to, "cam-3")
    (partly,) = ask("cloud_server", "fleet", "forget", *to, "cam-2", "nobody", code=1)
    assert [one["device"] for one in partly["devices"]] == ["cam-2"]
    assert partly["error"]["reason"] == "not_found"
    ask("cloud_server", "fleet", "audit", *to)
    ask("cloud_server", "loadtest", *to, "--devices", "1", "--seconds", "0.5", "--ramp", "0",
        "--tasks", "none", "--file", file, "--yes")  # fmt: skip


def test_what_needs_no_server(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    for package, *words in (
        ("cloud_server", "auth", "token", "create", "--role", "operator", *data),
        ("cloud_server", "auth", "token", "list", *data),
        ("cloud_server", "auth", "dev-ca", str(tmp_path / "ca")),
        ("cloud_server", "models", "list", "--cache-dir", str(tmp_path)),
        ("training", "steps"),
    ):
        done = run(package, *words, "--json")
        assert done.returncode == 0, done.stderr
    doctor = [sys.executable, "-m", "shared.cli.featherwire", "doctor", "--json"]
    said = subprocess.run(doctor, capture_output=True, text=True, cwd=ROOT, timeout=120).stdout
    documents("shared.cli.featherwire", ["doctor"], said)

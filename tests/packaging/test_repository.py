"""What visitors and their tools find: hooks, workflow, templates, and the site's own code."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

ROOT = Path(__file__).resolve().parents[2]


def document(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def site_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "_site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hooks_are_the_checks_of_make_lint() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    wanted = {
        " ".join(line.split("#")[0].split()[:2]).replace("$(BIN)/", "").strip()
        for line in recipe[1].splitlines()
    }
    (local,) = document(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    entries = {
        " ".join(hook["entry"].split()[:2]).removeprefix(".venv/bin/") for hook in local["hooks"]
    }
    assert {entry.split()[0] for entry in entries} == {entry.split()[0] for entry in wanted}
    assert {entry for entry in wanted if entry.startswith("ruff")} <= entries


def test_the_workflow_runs_what_must_hold_before_a_merge() -> None:
    steps = document(".github/workflows/ci.yml")["jobs"]["checks"]["steps"]
    assert [step["run"] for step in steps if step.get("run", "").startswith(".ci/")] == [".ci/run"]


@pytest.mark.parametrize(
    "form", sorted(path.name for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
)
def test_issue_forms_have_what_github_wants(form: str) -> None:
    found = document(f".github/ISSUE_TEMPLATE/{form}")
    if form == "config.yml":
        assert {"name", "url", "about"} <= set(found["contact_links"][0])
        return
    assert {"name", "description", "body"} <= set(found)
    for field in found["body"]:
        assert field["attributes"]["label"]
        assert re.fullmatch(r"[A-Za-z0-9_-]+", field["id"])


def test_the_changelog_knows_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d{2}-\d{2})?$", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert version in headings
    assert all(f"\n[{heading}]: " in text for heading in headings)
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_page_is_in_the_site_s_navigation() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages


def test_a_state_diagram_becomes_a_table() -> None:
    hooks = site_module("hooks")
    page = (
        "Before\n\n```mermaid\nstateDiagram-v2\n    [*] --> a\n    a --> [*]: b: c\n```\n\nAfter\n"
    )
    assert hooks.on_page_markdown(page) == (
        "Before\n\n| from | to | when |\n| --- | --- | --- |\n| (begin) | a |  |\n"
        "| a | (end) | b: c |\n\nAfter\n"
    )
    with pytest.raises(Exception, match="no transition: nonsense"):
        hooks.on_page_markdown("```mermaid\nstateDiagram-v2\nnonsense\n```\n")


@pytest.mark.parametrize(
    ("tag", "refused"),
    [
        ('<script src="https://cdn.example.org/a.js"></script>', True),
        ("<link rel=stylesheet href=//fonts.example.org/x.css>", True),
        ('<img alt="" src="http://example.org/a.png">', True),
        ('<a href="https://example.org">a link is followed by people</a>', False),
        ('<link rel="canonical" href="https://example.org/">', False),
        ('<script src="../assets/a.js"></script>', False),
    ],
)
def test_a_page_that_loads_from_elsewhere_is_refused(
    tmp_path: Path, tag: str, refused: bool
) -> None:
    hooks = site_module("hooks")
    (tmp_path / "page.html").write_text(f"<html>{tag}</html>")
    if refused:
        with pytest.raises(Exception, match=r"page\.html loads "):
            hooks.on_post_build({"site_dir": str(tmp_path)})
    else:
        hooks.on_post_build({"site_dir": str(tmp_path)})


def test_drawn_paragraphs_of_docstrings_stay_drawn() -> None:
    as_markdown = site_module("docstrings").as_markdown
    assert as_markdown("A line.\n\nname    what it is\nother   what else") == (
        "A line.\n\n```text\nname    what it is\nother   what else\n```"
    )
    assert as_markdown("See :func:`shared.a.b`: it\nruns over lines.") == (
        "See `shared.a.b`: it\nruns over lines."
    )


PACKAGES = "shared|codec|edge_client|cloud_server|training|benchmarks"
PATH = re.compile(rf"`((?:{PACKAGES}|tests|deploy|protos|docs)/[\w./*-]*)`")
DOTTED = re.compile(rf"`((?:{PACKAGES})(?:\.\w+)+)`")
PLACEHOLDER = re.compile(r"[A-Z]{3,}")  # codec/NAME/


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module, or something that one defines or exports."""
    words = dotted.split(".")
    for count in range(len(words), 0, -1):
        base = ROOT.joinpath(*words[:count])
        file = (
            base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
        )
        if file.is_file() or base.is_dir():
            rest = words[count:]
            text = file.read_text() if file.is_file() else ""
            return all(re.search(rf"\b{re.escape(name)}\b", text) for name in rest)
    return False


@pytest.mark.parametrize(
    "page",
    sorted(
        str(path.relative_to(ROOT))
        for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
        if path.name != "CHANGELOG.md"
    ),
)
def test_code_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    missing = [
        name
        for name in PATH.findall(text)
        if not PLACEHOLDER.search(name) and not any(ROOT.glob(name.rstrip("/")))
    ]
    missing += [name for name in DOTTED.findall(text) if not is_there(name)]
    assert not missing, f"{page} names what is not there: {', '.join(missing)}"


COMMAND = re.compile(r"(featherwire(?:-edge|-cloud)?) ([a-z][^\n`]*)")
COMMAND_LINES = {
    "featherwire": "shared.cli.featherwire",
    "featherwire-edge": "edge_client.cli",
    "featherwire-cloud": "cloud_server.cli",
}
COMMAND_PAGES = (
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "deploy").glob("*.service"),
    *(ROOT / "deploy").rglob("*.yaml"),
    ROOT / "docker-compose.yml",
)


@pytest.mark.parametrize(
    "page", sorted(str(p.relative_to(ROOT)) for p in COMMAND_PAGES if COMMAND.search(p.read_text()))
)
def test_commands_that_a_page_names_have_these_options(page: str) -> None:
    """Those that no test runs as well: a unit of systemd, a cluster's, one for a camera."""
    programs = {
        name: typer.main.get_command(importlib.import_module(module).build_app())
        for name, module in COMMAND_LINES.items()
    }
    text = re.sub(r"\\\n\s*", " ", (ROOT / page).read_text())
    for program, rest in COMMAND.findall(text):
        command, words = programs[program], rest.split()
        if program == "featherwire" and words[0] not in command.commands:
            continue  # prose
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            word = words.pop(0).strip(".,)")
            assert word in command.commands, f"{page}: {program} {rest}"
            command = command.commands[word]
        known = {name for option in command.params for name in (*option.opts, "--help")}
        for word in words:
            if word in ("|", "&&", "#"):
                break
            option = re.match(r"--[a-z][a-z-]*", word)
            assert option is None or option[0] in known, f"{page}: {program} {rest}: {word}"

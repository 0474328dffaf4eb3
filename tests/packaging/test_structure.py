"""The shape of the house: floors, no circles, folders that can be taken in at a glance."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from tests.support.composed import ROOT

FLOORS = {
    "shared": 0, "codec": 1, "edge_client": 2, "cloud_server": 2, "training": 3, "benchmarks": 4,
}  # fmt: skip
MOST_FILES = 12
TEST_FILE = re.compile(r"(^|\.)(test_\w+|conftest)(\.|$)")


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Module to the modules of ours that it imports, lazily or for types too."""
    graph = grimp.build_graph(*FLOORS, cache_dir=None)
    return {
        module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules
    }


def test_no_import_runs_up(imports: dict[str, set[str]]) -> None:
    """And none crosses from the edge to the cloud or back."""
    wrong = [
        f"{module} imports {imported}"
        for module, others in sorted(imports.items())
        for imported in sorted(others)
        if (here := module.split(".")[0]) != (there := imported.split(".")[0])
        and FLOORS[here] <= FLOORS[there]
    ]
    assert wrong == []


def test_no_import_goes_round(imports: dict[str, set[str]]) -> None:
    assert list(circles(imports)) == []


def test_a_circle_would_be_found() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"f.g"},
               "f.g": {"f"}}  # fmt: skip
    assert sorted(map(sorted, circles(imports))) == [["a", "b", "c"], ["f", "f.g"]]


def circles(imports: dict[str, set[str]]) -> Iterator[list[str]]:
    """Modules that import each other, however many lie between: Tarjan's components of two or more.

    R. E. Tarjan, "Depth-first search and linear graph algorithms", 1972; without recursion.
    """
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    for start in imports:
        if start in number:
            continue
        work = [(start, iter(sorted(imports[start])))]
        number[start] = low[start] = len(number)
        path.append(start)
        while work:
            module, others = work[-1]
            for other in others:
                if other not in number:
                    number[other] = low[other] = len(number)
                    path.append(other)
                    work.append((other, iter(sorted(imports[other]))))
                    break
                if other in path:
                    low[module] = min(low[module], number[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[module])
                if low[module] == number[module]:
                    at = path.index(module)
                    component, path = path[at:], path[:at]
                    if len(component) > 1:
                        yield component


def test_no_folder_has_more_files_than_one_sees() -> None:
    files = (path for package in FLOORS for path in (ROOT / package).rglob("*.py"))
    count = Counter(path.parent.relative_to(ROOT).as_posix() for path in files)
    generated = "shared/proto/featherwire"
    crowded = {
        folder: number
        for folder, number in count.items()
        if number > MOST_FILES and not folder.startswith(generated)
    }
    assert crowded == {}


def test_no_codec_is_named_outside_its_folder() -> None:
    """Neither in code nor by an import: whoever wants one asks the registry, by a bundle's name."""
    codecs = {path.parent.name for path in (ROOT / "codec").glob("*/edge.py")}
    assert codecs
    words = "|".join(spelling for folder in codecs for spelling in spellings(folder))
    named = [
        f"{path.relative_to(ROOT)}:{number} has {text!r}"
        for package in FLOORS
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.relative_to(ROOT).parts[1] not in codecs
        for number, text in said(path)
        if re.search(words, text)
    ]
    assert named == []


def spellings(folder: str) -> list[str]:
    """some_codec, some-codec, SomeCodec. A name of one word means other things too: its module."""
    if "_" not in folder:
        return [rf"codec\.{folder}\b"]
    return [folder, folder.replace("_", "-"), "".join(map(str.capitalize, folder.split("_")))]


def said(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of the names, imports and strings of a module, without its docstrings."""
    tree = ast.parse(path.read_text())
    documents = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in documents:
                yield node.lineno, text
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.ClassDef(name=text):
                yield node.lineno, text
            case ast.Import(names=names):
                yield node.lineno, " ".join(one.name for one in names)
            case ast.ImportFrom(module=module, names=names):
                yield node.lineno, " ".join([module or "", *(one.name for one in names)])


def test_no_test_leans_on_another() -> None:
    """What tests share is in ``tests/support``; nobody imports a test or a conftest."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for name in imported(path)
        if name.startswith(("tests.", ".")) and TEST_FILE.search(name)
    ]
    assert wrong == []


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")

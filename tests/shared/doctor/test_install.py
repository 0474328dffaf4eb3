"""Findings about what pip installed: every way in which an environment can be wrong."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from shared import installation
from shared.doctor import Finding, Installed, Role, examine, roles_of
from shared.doctor.install import (
    PURPOSES,
    canonical,
    check_packages,
    check_python,
    requirements,
)
from shared.installation import install_command

PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"
REQUIRES = (
    "numpy>=1.26",
    "protobuf<8,>=6.33.5",
    'onnxruntime>=1.20; extra == "edge"',
    'grpcio>=1.81.1; extra == "edge"',
    'onnxruntime-gpu>=1.20; extra == "gpu"',
    'grpcio>=1.81.1; extra == "gpu"',
    'torch<2.14,>=2.6; extra == "cloud-base"',
    'featherwire[cloud-base]; extra == "cloud"',
    'onnxruntime>=1.20; extra == "cloud"',
    'opencv_python.headless>=4.10; extra == "tasks"',
    "av>=14; extra == 'stream'",
    'ray[serve]<3,>=2.53; extra == "ray"',
)
BASE = {"numpy": "2.1.0", "protobuf": "6.33.5"}
EDGE = {**BASE, "onnxruntime": "1.20", "grpcio": "1.81.1"}


def findings(versions: Mapping[str, str], roles: Sequence[Role]) -> dict[str, Finding]:
    installed = Installed("1.0", requirements(REQUIRES), versions)
    return {finding.name: finding for finding in check_packages(installed, roles)}


def test_a_whole_edge_has_no_problem_and_names_what_it_could_have() -> None:
    found = findings(EDGE, ["edge"])
    assert found["extra edge"].state == "ok"
    assert {one.state for one in found.values()} == {"ok", "optional"}
    stream = found["extra stream"]
    assert (stream.state, stream.mend) == ("optional", install_command("stream"))
    assert "missing: av" in stream.found
    assert "RTSP" in stream.found
    assert "extra gpu" not in found  # it would clash with edge


def test_what_a_role_needs_is_a_problem_and_what_it_does_not_is_optional() -> None:
    versions = {**EDGE}
    del versions["grpcio"]
    assert findings(versions, ["edge"])["extra edge"].state == "problem"
    assert findings(versions, ["train"])["extra edge"].state == "optional"
    found = findings(EDGE, ["edge", "cloud"])
    assert found["extra cloud"].state == "problem"
    assert "torch" in found["extra cloud"].found  # out of the extra that it brings
    assert found["extra cloud"].mend == install_command("cloud")
    assert found["extra tasks"].state == "problem"


def test_the_gpu_twin_fills_the_need() -> None:
    versions = {**BASE, "onnxruntime-gpu": "1.22", "grpcio": "1.82"}
    found = findings(versions, ["edge"])
    assert found["extra gpu"].state == "ok"
    assert "extra edge" not in found
    assert all(one.state != "problem" for one in found.values())


@pytest.mark.parametrize(
    ("version", "allowed"),
    [
        ("6.33.5", True),
        ("6.33.5.post1", True),
        ("7.0rc1", True),
        ("6.33", False),
        ("6.9", False),
        ("8.0", False),
        ("8", False),
    ],
)
def test_a_version_out_of_bounds_is_missing(version: str, allowed: bool) -> None:
    base = findings({**EDGE, "protobuf": version}, ["edge"])["base packages"]
    assert base.state == ("ok" if allowed else "problem")
    if not allowed:
        assert f"protobuf {version} (needed: <8,>=6.33.5)" in base.found
        assert base.mend == install_command()


@pytest.mark.parametrize(
    "pair",
    [
        ("onnxruntime", "onnxruntime-gpu"),
        ("opencv-python-headless", "opencv-python"),
        ("opencv-python-headless", "opencv-contrib-python"),
    ],
)
def test_packages_that_overwrite_each_other_are_a_problem(pair: tuple[str, str]) -> None:
    clashes = [
        one
        for one in findings({**EDGE, pair[0]: "1.20", pair[1]: "1.20"}, ["edge"]).values()
        if one.name.startswith("only one") and one.state == "problem"
    ]
    (clash,) = clashes
    assert all(name in clash.found for name in pair)
    assert clash.mend is not None
    assert clash.mend.startswith(f"pip uninstall -y {pair[0]} {pair[1]} && pip install {pair[0]}")


def test_a_source_tree_that_is_not_installed_says_so() -> None:
    (only,) = check_packages(Installed(None), [])
    assert (only.state, only.mend) == ("problem", install_command())


def test_the_base_alone_warns_that_little_works() -> None:
    found = findings(BASE, [])
    assert found["roles"].state == "warning"
    assert found["roles"].mend == install_command("edge")
    assert all(one.state != "problem" for one in found.values())


def test_roles_are_seen_in_the_packages() -> None:
    assert roles_of(Installed("1.0", {}, BASE)) == ()
    assert roles_of(Installed("1.0", {}, EDGE)) == ("edge",)
    everything = {**EDGE, "diffusers": "1", "compressai": "1.2.8"}
    assert roles_of(Installed("1.0", {}, everything)) == ("edge", "cloud", "train")


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10, 9), "problem"), ((3, 12, 1), "ok"), ((3, 13, 0), "warning")]
)
def test_python(version: tuple[int, int, int], state: str) -> None:
    python, _ = check_python(version)
    assert python.state == state
    assert (python.mend is None) == (state == "ok")


def test_this_environment_is_read() -> None:
    installed = Installed.here()
    assert installed.release is not None
    assert installed.missing("") == []
    assert "numpy" in installed.versions


def test_every_extra_has_a_purpose() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    assert {canonical(extra) for extra in extras} - {"cloud-base"} == set(PURPOSES)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ('{"url": "file://FOLDER", "dir_info": {"editable": true}}', "-e 'FOLDER[edge]'"),
        ('{"url": "file://FOLDER", "dir_info": {}}', "'FOLDER[edge]'"),
        ('{"url": "file://FOLDER/gone.whl", "archive_info": {}}', "'featherwire[edge]'"),
        (
            '{"url": "https://example.org/f.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
            "'featherwire[edge] @ git+https://example.org/f.git@abc'",
        ),
        (None, "'featherwire[edge]'"),
    ],
)
def test_a_hint_installs_from_where_this_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str | None, expected: str
) -> None:
    folder = tmp_path / "a clone"
    folder.mkdir()

    class Ours:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return origin and origin.replace("FOLDER", str(folder).replace(" ", "%20"))

    monkeypatch.setattr(installation, "_distribution", Ours)
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert install_command("edge") == f"pip install {expected.replace('FOLDER', str(folder))}"
    monkeypatch.delenv("VIRTUAL_ENV")
    assert install_command("edge").startswith(f"{sys.executable} -m pip install ")
    monkeypatch.chdir(folder)
    assert ("FOLDER" not in expected) or "'.[edge]'" in install_command("edge")


def test_one_roles_extras_alone_when_that_is_asked_for() -> None:
    report = examine(["edge"])
    names = {finding.name for finding in report.findings if finding.name.startswith("extra ")}
    assert {"extra edge", "extra stream", "extra mqtt"} <= names
    assert not names & {"extra cloud", "extra train", "extra ray", "extra dev"}

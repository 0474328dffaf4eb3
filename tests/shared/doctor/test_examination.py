"""The whole examination: damaged bundles, folders, and what makes a report unhealthy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.bundle.bundle import PACKAGED_FOLDER
from shared.doctor import Finding, Places, Report
from shared.doctor.examination import check_bundles


def test_packaged_bundles_are_whole() -> None:
    found = list(check_bundles(PACKAGED_FOLDER))
    assert {one.name for one in found} >= {"picture", "detect", "classify"}
    assert {one.state for one in found} == {"ok"}


@pytest.mark.parametrize(
    ("file", "data", "reason"),
    [
        ("contexts.npz", b"short", "hash_mismatch"),
        ("contexts.npz", None, "missing_file"),
        ("manifest.json", b"{}", "bad_manifest"),
    ],
)
def test_a_damaged_bundle_is_a_problem(
    tmp_path: Path, file: str, data: bytes | None, reason: str
) -> None:
    shutil.copytree(PACKAGED_FOLDER / "classify", tmp_path / "classify")
    if data is None:
        (tmp_path / "classify" / file).unlink()
    else:
        (tmp_path / "classify" / file).write_bytes(data)
    (finding,) = check_bundles(tmp_path)
    assert finding.state == "problem"
    assert f"[{reason}]" in finding.found
    assert finding.mend == "pip install --force-reinstall featherwire"


def test_an_install_without_bundles_is_a_problem(tmp_path: Path) -> None:
    (finding,) = check_bundles(tmp_path)
    assert finding.state == "problem"


def test_the_folders_are_those_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("FEATHERWIRE_BUNDLE_CACHE", str(tmp_path / "bundles"))
    paths = {one.name: one.path for one in Places().folders()}
    assert paths == {
        "data folder": tmp_path / "share" / "featherwire",
        "fetched bundles": tmp_path / "bundles",
    }
    given = {one.name: one.path for one in Places(data=tmp_path, spool=tmp_path / "s").folders()}
    assert (given["data folder"], given["spool"]) == (tmp_path, tmp_path / "s")


def test_only_a_problem_makes_a_report_unhealthy() -> None:
    fine = [Finding("a", state, state, "") for state in ("ok", "optional", "warning")]
    assert Report("1.0", ("edge",), tuple(fine)).healthy
    assert not Report("1.0", ("edge",), (*fine, Finding("a", "b", "problem", ""))).healthy


IN_A_BASE_INSTALL = """
import sys
for name in ("torch", "onnxruntime", "grpc", "cv2", "sqlalchemy", "structlog", "httpx"):
    sys.modules[name] = None  # importing it fails, as where it is not installed
from shared.doctor import Installed, examine
from shared.doctor.install import requirements
base = {"numpy": "2.0", "pydantic": "2.9"}
wanted = requirements(["numpy>=1.26", "pydantic>=2.7", 'onnxruntime; extra == "edge"'])
report = examine(installed=Installed("1.0", wanted, base))
assert report.roles == (), report.roles
assert report.healthy, [one for one in report.findings if one.state == "problem"]
"""


def test_the_base_dependencies_are_enough() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_BASE_INSTALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

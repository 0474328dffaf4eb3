"""The whole examination: damaged bundles, folders, and what makes a report unhealthy."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_server.serve.settings import default_data_folder
from edge_client.bundles import BundleCache
from shared.bundle.bundle import PACKAGED_FOLDER
from shared.doctor import Finding, Places, Report, examine
from shared.doctor.stored import check_bundles, check_weights
from shared.installation import install_command
from shared.weights import ModelEntry, ModelStore, UrlSource


def test_packaged_bundles_are_whole() -> None:
    found = list(check_bundles(PACKAGED_FOLDER))
    assert {one.name for one in found} >= {"picture", "fidelity", "detect", "classify"}
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
    assert finding.mend == install_command(again=True)


def test_an_install_without_bundles_is_a_problem(tmp_path: Path) -> None:
    (finding,) = check_bundles(tmp_path)
    assert finding.state == "problem"


def entry(name: str, *, default: bool) -> ModelEntry:
    return ModelEntry(
        name=name,
        version="1",
        file=f"{name}.onnx",
        sha256=hashlib.sha256(b"weights").hexdigest(),
        file_bytes=len(b"weights"),
        licence="MIT",
        notice="made here",
        purpose="tests",
        source=UrlSource(url="https://example.org/weights"),
        default=default,
    )


def test_weights_that_are_right_wrong_and_missing(tmp_path: Path) -> None:
    names = {"good": True, "bad": True, "odd": False, "gone": True, "unused": False}
    catalogue = [entry(name, default=default) for name, default in names.items()]
    for name, data in (("good", b"weights"), ("bad", b"sthgiew"), ("odd", b"short")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.onnx").write_bytes(data)
    store = ModelStore(tmp_path, catalogue=catalogue)
    server = {one.name: one for one in check_weights(store, ["cloud"])}
    assert server["good"].state == "ok"
    assert server["bad"].state == "problem"
    assert "wrong SHA-256" in server["bad"].found
    assert server["bad"].mend == (
        f"rm '{tmp_path / 'bad' / 'bad.onnx'}' && featherwire-cloud models fetch bad"
    )
    assert server["odd"].state == "warning"
    tasks = server["of the built-in tasks"]
    assert (tasks.state, tasks.mend) == ("problem", "featherwire-cloud models fetch")
    assert tasks.found.endswith(": gone")
    assert server["others"].state == "optional"
    assert server["others"].mend == "featherwire-cloud models fetch unused"
    device = {one.name: one for one in check_weights(store, ["edge"])}
    assert device["of the built-in tasks"].state == "optional"
    assert device["bad"].state == "warning"


def test_the_folders_are_those_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("FEATHERWIRE_BUNDLE_CACHE", str(tmp_path / "bundles"))
    monkeypatch.setenv("FEATHERWIRE_MODELS", str(tmp_path / "models"))
    paths = {one.name: one.path for one in Places().folders()}
    assert paths == {
        "data folder": tmp_path / "share" / "featherwire",
        "fetched bundles": tmp_path / "bundles",
        "model store": tmp_path / "models",
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


def test_the_default_folders_are_those_that_are_used() -> None:
    paths = {one.name: one.path for one in Places().folders()}
    assert paths["data folder"] == default_data_folder()
    assert paths["fetched bundles"] == BundleCache().folder
    assert paths["model store"] == ModelStore().cache_dir


def test_a_user_without_a_home_is_a_problem_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("FEATHERWIRE_MODELS", raising=False)
    (home,) = [one for one in examine(["edge"]).findings if one.name == "home folder"]
    assert (home.state, home.mend) == ("problem", "export HOME=/var/lib/featherwire")

"""The command `featherwire`: its overview, passing on to the others, and the doctor's statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from shared.cli import featherwire
from shared.cli.app import forget_blank_variables
from shared.doctor import Finding, Report
from shared.installation import install_command

ROOT = Path(__file__).resolve().parents[3]
RUNNER = CliRunner()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shared.cli.featherwire", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_without_arguments_it_says_what_is_installed_and_what_for() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Featherwire ")
    for part, (_, purpose) in featherwire.PARTS.items():
        assert f"featherwire-{part}" in done.stdout
        assert purpose in done.stdout
    assert "featherwire doctor" in done.stdout


def test_what_is_not_installed_has_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(featherwire, "_program", lambda part: None)
    shown = RUNNER.invoke(featherwire.build_app(), []).stdout
    for extras in ("edge", "cloud,tasks", "train"):
        assert f"not installed: {install_command(extras)}" in shown


def test_a_part_gets_its_arguments_as_they_are() -> None:
    assert run("edge", "--version").stdout == run("--version").stdout
    done = run("edge", "inspect", "--json", "/no/such.fwf")
    assert done.returncode == 1
    assert json.loads(done.stdout)["failures"][0]["reason"] == "not_found"
    assert "featherwire-cloud" in run("cloud", "--help").stdout
    assert run("edge", "no-such-command").returncode == 2


def test_a_part_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featherwire, "_program", lambda part: None)
    done = RUNNER.invoke(featherwire.build_app(), ["cloud", "serve"])
    assert done.exit_code == 3
    assert f"{install_command('cloud,tasks')} [missing_command]" in done.output


def test_the_doctor_as_a_document(tmp_path: Path) -> None:
    done = run("doctor", "--json", "--for", "edge", "--spool", str(tmp_path / "spool"))
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    assert set(document) == {"version", "roles", "healthy", "findings"}
    assert (document["roles"], document["healthy"]) == (["edge"], True)
    keys = {"area", "name", "state", "found", "mend"}
    assert all(set(finding) == keys for finding in document["findings"])
    areas = {finding["area"] for finding in document["findings"]}
    assert areas >= {"install", "runtime", "bundles", "network", "clock", "disk", "programs"}
    assert any(finding["name"] == "spool" for finding in document["findings"])


def test_a_problem_is_exit_status_1_with_its_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("doctor", "--for", "cloud", "--data", str(tmp_path / "file" / "data"))
    assert done.returncode == 1
    assert "problem   data folder: " in done.stdout
    assert "mend: choose another with --data" in done.stdout
    assert "1 problem, " in done.stdout


def test_an_unknown_part_is_wrong_usage() -> None:
    assert run("doctor", "--for", "phone").returncode == 2


def test_states_stand_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = (Finding("install", "x", "warning", "old", "renew it"),)
    monkeypatch.setattr("shared.doctor.examine", lambda *_: Report("1.0", ("edge",), findings))
    done = RUNNER.invoke(featherwire.build_app(), ["doctor"])
    assert done.exit_code == 0
    assert "  warning   x: old\n" in done.output
    assert "mend: renew it\n" in done.output
    assert "0 problems, 1 warning" in done.output


IN_A_BASE_INSTALL = """
import sys
for name in ("torch", "onnxruntime", "grpc", "cv2", "sqlalchemy", "structlog", "opentelemetry"):
    sys.modules[name] = None  # importing it fails, as where it is not installed
package, *sys.argv[1:] = sys.argv[1:]
__import__(f"{package}.cli", fromlist=["main"]).main()
"""


def run_in_a_base_install(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", IN_A_BASE_INSTALL, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_files_are_looked_at_and_cut_with_the_base_alone(tmp_path: Path) -> None:
    golden = Path(__file__).resolve().parents[3] / "codec" / "markov_palette" / "golden"
    file, bundle = golden / "320x200-state0.fwf", golden / "bundle.zip"
    cut = ("truncate", file, "--bundle", bundle, "--bytes", "2000", "-o", tmp_path)
    for arguments in (("inspect", file), cut):
        done = run_in_a_base_install("edge_client", *arguments)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("package", "arguments", "extras"),
    [
        ("edge_client", ("send", "photo.jpg", "--server", "127.0.0.1:1"), "edge"),
        ("cloud_server", ("serve", "--insecure"), "cloud,tasks"),
    ],
)
def test_a_library_that_is_not_installed_is_said_in_a_line(
    package: str, arguments: tuple[str, ...], extras: str
) -> None:
    done = run_in_a_base_install(package, *arguments)
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: this command needs the library ")
    assert line.endswith(f"{install_command(extras)} [missing_extra]")


def test_blank_variables_are_not_set_in_any_command() -> None:
    variables = {"FEATHERWIRE_SOURCE": " ", "FEATHERWIRE_TOKEN": "", "FEATHERWIRE_X": "0", "Y": ""}
    forget_blank_variables(variables)
    assert variables == {"FEATHERWIRE_X": "0", "Y": ""}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FEATHERWIRE_SOURCE": " "}
    code = "from edge_client.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "stream", "--server", "127.0.0.1:1"],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Missing argument" in done.stderr


def test_no_encoding_of_a_terminal_makes_a_command_fail(tmp_path: Path) -> None:
    photo = tmp_path / "\u5199.jpg"
    Image.new("RGB", (64, 48)).save(photo)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1:strict"}
    code = "from edge_client.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "encode", photo, tmp_path / "no.jpg", "-o", tmp_path / "out"],
        env=environment, capture_output=True, encoding="latin-1", timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "\\u5199.jpg" in done.stdout

"""The committed stubs are what the committed protos give."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.proto import generate


def test_the_committed_stubs_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("grpc_tools")
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_stub_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    copy = tmp_path / "protos"
    shutil.copytree(generate.PROTO_ROOT, copy)
    types = copy / "featherwire/v1/types.proto"
    types.write_text(types.read_text().replace("message Layer {", "message Layer {\n  bool x = 9;"))
    monkeypatch.setattr(generate, "PROTO_ROOT", copy)
    assert generate.main(["--check"]) == 1


def test_the_protos_pass_the_linter() -> None:
    buf = shutil.which("buf") or shutil.which("buf", path=str(Path(sys.executable).parent))
    if buf is None:
        pytest.skip("buf is not installed")
    done = subprocess.run([buf, "lint", str(generate.PROTO_ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

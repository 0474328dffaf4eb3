"""The Helm chart, rendered by Helm."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import helm
from tests.support.chart import CHART, NEEDED, Render


@pytest.fixture(scope="module")
def program() -> Path:
    found = helm.find()
    if found is None:
        pytest.skip("there is no helm, and none can be fetched")
    return found


@pytest.fixture(scope="module")
def run(
    program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    home = tmp_path_factory.mktemp("helm")
    environment = {**os.environ, "HOME": str(home)}
    for kind in ("CACHE", "CONFIG", "DATA"):
        environment[f"HELM_{kind}_HOME"] = str(home)

    def run_it(command: list[str], values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        (home / "values.json").write_text(json.dumps(values))
        words = [str(program), *command, str(CHART), "--values", str(home / "values.json")]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)

    return run_it


@pytest.fixture(scope="module")
def render(run: Callable[..., subprocess.CompletedProcess[str]]) -> Render:
    def render_it(values: dict[str, Any]) -> list[dict[str, Any]]:
        done = run(["template", "cams", "--namespace", "vision"], {**NEEDED, **values})
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return render_it

"""deploy/*.Dockerfile: linted, of parts that exist, for a user without rights.

No image is built here: that needs a container engine. What images run does run, in test_stack.py.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.composed import ROOT, parse

DEPLOY = ROOT / "deploy"
FILES = sorted(DEPLOY.glob("*.Dockerfile"))
BAKE: dict[str, Any] = json.loads((DEPLOY / "docker-bake.json").read_text())["target"]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(params=FILES, ids=lambda file: file.name)
def text(request: pytest.FixtureRequest) -> str:
    file: Path = request.param
    return file.read_text()


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run([program, file], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    done = hadolint(file)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_does_see_mistakes(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nUSER root\nRUN cd /x && sudo ls | wc\n")
    assert hadolint(tmp_path / "Dockerfile").returncode != 0


def test_copied_files_exist(text: str) -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    sources = {source for words in copies for source in words.split()}
    assert "." in sources
    assert all((ROOT / source).exists() for source in sources)
    constraints = re.findall(r"-c (\S+)", text)
    assert constraints
    assert all((ROOT / file).is_file() for file in constraints)


def test_it_is_multi_stage_not_root_and_says_how_it_is(text: str) -> None:
    stages = re.findall(r"^FROM (?:--platform=\S+ )?(\S+)(?: AS (\S+))?$", text, re.MULTILINE)
    assert len(stages) >= 2
    names = {name for _, name in stages}
    for image, _ in stages:
        own = image.replace("${TARGETARCH:-amd64}", "amd64")
        assert own in names or re.search(r":\$\{PYTHON\}(-slim)?-bookworm$", image), image
    final = text[text.index("COPY --from=build") :]
    (user,) = re.findall(r"^USER (\S+)$", final, re.MULTILINE)
    assert user == re.findall(r"--uid (\d+)", final)[0]
    assert int(user) >= 10000
    (script,) = re.findall(r"HEALTHCHECK .*\\\n\s+CMD \[\"python\", \"(\S+)\"", final)
    assert f" {script}\n" in final  # copied there
    assert "STOPSIGNAL SIGTERM" in final


def test_what_is_installed_can_be(text: str) -> None:
    (asked,) = re.findall(r"'?\"?\.\[([^\]]+)\]", text)
    arguments = [target.get("args", {}) for target in BAKE.values()]
    default = re.search(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    values = {a["EXTRAS"] for a in arguments if "EXTRAS" in a} | (
        {default[1]} if default else set()
    )
    for value in values or {""}:
        assert set(asked.replace("${EXTRAS}", value).split(",")) <= set(EXTRAS)


def test_they_start_with_a_command_of_ours(text: str) -> None:
    (program,) = re.findall(r'^ENTRYPOINT \["(\S+)"\]$', text, re.MULTILINE)
    (words,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    if json.loads(words) != ["--help"]:
        parse(program, json.loads(words))


def test_the_bake_file_builds_each_for_its_machines() -> None:
    for target in BAKE.values():
        parent = BAKE[target["inherits"][0]] if "inherits" in target else {}
        text = (ROOT / {**parent, **target}["dockerfile"]).read_text()
        assert set(target.get("args", {})) <= set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
        if "target" in target:
            assert text.rstrip().endswith(f" AS {target['target']}")  # also the default
    assert BAKE["edge"]["platforms"] == ["linux/amd64", "linux/arm64"]
    assert BAKE["cloud-gpu"]["args"] == {"DEVICE": "cuda", "EXTRAS": "cloud-gpu"}


def test_footage_is_a_film_that_moves(tmp_path: Path) -> None:
    import av
    import numpy as np

    film = tmp_path / "footage.mp4"
    subprocess.run([sys.executable, DEPLOY / "footage.py", film, "8"], check=True, timeout=120)
    with av.open(str(film)) as opened:
        stream = opened.streams.video[0]
        assert stream.average_rate == 10
        frames = [frame.to_ndarray(format="rgb24") for frame in opened.decode(stream)]
    assert [frame.shape for frame in frames] == [(360, 480, 3)] * 80
    steps = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(frames)]
    assert min(steps) > 0.1
    # The greatest are those from one photo to the next.
    assert sorted(np.argsort(steps)[-3:]) == [19, 39, 59]

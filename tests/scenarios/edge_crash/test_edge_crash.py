"""An edge process that is killed at random moments loses nothing, doubles nothing, keeps order."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.bundle import Bundle
from tests.support.crashing_edge import width
from tests.support.predicted import number_of, predicting_bundle
from tests.support.recorder import Recorder
from tests.support.servers import ServerThread, settings_of

ROOT = Path(__file__).resolve().parents[3]
EDGE = ROOT / "tests" / "support" / "crashing_edge.py"
PICTURES = 300
KILLS = 8


def killed_often(
    address: str, bundle: Bundle, folder: Path, pictures: int, kills: int, **variables: str
) -> list[dict[str, Any]]:
    """The results of an edge that is killed so often, and started again."""
    rng = random.Random(3)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    results = folder / "results"
    command = [
        sys.executable, str(EDGE), address, bundle.origin, str(folder / "spool"), str(results),
        str(pictures),
    ]  # fmt: skip
    killed = 0
    while True:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        if killed == kills:
            assert process.wait(60) == 0
            return [json.loads(line) for line in results.read_text().splitlines()]
        time.sleep(rng.uniform(0.01, 0.35))
        process.send_signal(signal.SIGKILL)
        # One that had finished already would show nothing.
        assert process.wait(10) == -signal.SIGKILL, "the edge was done before it was killed"
        killed += 1


def check(lines: list[dict[str, Any]], pictures: int, kills: int) -> None:
    """Each picture has its result."""
    assert {line["error"] for line in lines} == {None}
    times = Counter(line["sequence"] for line in lines)
    assert sorted(times) == list(range(1, pictures + 1)), "each has its result"
    # A kill between a result and the note that it was handed over brings that result again; never
    # two of one process.
    assert sum(times.values()) - pictures <= kills
    assert max(Counter((line["pid"], line["sequence"]) for line in lines).values()) == 1


def test_kills_of_the_edge_lose_and_double_nothing(
    start_server: Callable[..., ServerThread], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    recorder = Recorder()
    server = start_server({"record": lambda: recorder})
    lines = killed_often(server.address, tiny_bundle, tmp_path, PICTURES, KILLS)
    expected = [width(number) for number in range(1, PICTURES + 1)]
    assert recorder.widths == expected, "processed once each, in order"
    assert all(line["width"] == width(line["sequence"]) for line in lines)
    check(lines, PICTURES, KILLS)


def test_kills_in_the_middle_of_groups_lose_no_picture_and_make_no_wrong_one(
    tmp_path: Path,
) -> None:
    """Every picture shows its number, and is predicted from the one before."""
    bundle = predicting_bundle(tmp_path / "bundle")
    recorder = Recorder(number_of)
    server = ServerThread(settings_of(bundle, tmp_path / "data"), {"record": lambda: recorder})
    lines = killed_often(server.address, bundle, tmp_path, PICTURES, KILLS, NUMBERED="1")
    server.stop()
    assert recorder.numbers == list(range(1, PICTURES + 1)), "each once, in order, as it was"
    check(lines, PICTURES, KILLS)
    assert max(line["predicted"] for line in lines) > 0

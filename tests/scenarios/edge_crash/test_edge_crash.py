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

from shared.bundle import Bundle
from tests.support.crashing_edge import width
from tests.support.recorder import Recorder
from tests.support.servers import ServerThread

ROOT = Path(__file__).resolve().parents[3]
EDGE = ROOT / "tests" / "support" / "crashing_edge.py"
PICTURES = 300
KILLS = 8


def test_kills_of_the_edge_lose_and_double_nothing(
    start_server: Callable[..., ServerThread], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    recorder = Recorder()
    server = start_server({"record": lambda: recorder})
    rng = random.Random(3)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    results = tmp_path / "results"
    command = [
        sys.executable, str(EDGE), server.address, tiny_bundle.origin, str(tmp_path / "spool"),
        str(results), str(PICTURES),
    ]  # fmt: skip
    killed = 0
    while True:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        if killed == KILLS:
            assert process.wait(60) == 0
            break
        time.sleep(rng.uniform(0.01, 0.35))
        process.send_signal(signal.SIGKILL)
        # One that had finished already would show nothing.
        assert process.wait(10) == -signal.SIGKILL, "the edge was done before it was killed"
        killed += 1

    lines = [json.loads(line) for line in results.read_text().splitlines()]
    expected = [width(number) for number in range(1, PICTURES + 1)]
    assert recorder.widths == expected, "processed once each, in order"
    assert {line["error"] for line in lines} == {None}
    assert all(line["width"] == width(line["sequence"]) for line in lines)
    times = Counter(line["sequence"] for line in lines)
    assert sorted(times) == list(range(1, PICTURES + 1)), "each has its result"
    # A kill between a result and the note that it was handed over brings that result again; never
    # two of one process.
    assert sum(times.values()) - PICTURES <= KILLS
    assert max(Counter((line["pid"], line["sequence"]) for line in lines).values()) == 1

"""Memory of the edge client: the peak of one `encode`, and whether `stream` grows over hours."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.demo.processes import DemoError, command, server

# Run by a small Python of its own: Linux counts what a process held before exec too, and this
# one holds torch.
_WATCH = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
with open("/proc/self/status") as status_file:
    own = next(int(line.split()[1]) for line in status_file if line.startswith("VmHWM"))
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss, own]))
"""


def edge_peak_megabytes(pixels: npt.NDArray[np.uint8], bundle: str | None = None) -> float:
    """Largest resident set, in units of 10**6 bytes, of ``featherwire-edge encode`` of one photo.

    pixels: uint8 [H, W, 3]. Raises DemoError when the command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        Image.fromarray(pixels).save(photo)
        words = [command("featherwire-edge"), "encode", str(photo), "-o", str(Path(folder) / "out")]
        words += [] if bundle is None else ["--bundle", bundle]
        done = subprocess.run(
            [sys.executable, "-c", _WATCH, *words], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise DemoError(f"the edge client's memory cannot be measured:\n{done.stderr}")
    status, peak, own = json.loads(done.stdout)
    if status != 0:
        raise DemoError(f"featherwire-edge encode ended with {status}:\n{done.stderr}")
    if peak <= own:
        raise DemoError("the watching process outgrew the edge client: nothing was measured")
    return round(peak * 1024 / 1e6, 1)


FRAMES_PER_SECOND = 15
SAMPLES = 12
WARM_UP = 0.25
"""Of the time: caches and arenas fill in the beginning."""


def soak(minutes: float) -> dict[str, Any]:
    """Memory of the client over so many minutes; RSS in units of 10**6 bytes.

    Raises DemoError when a command fails.
    """
    with tempfile.TemporaryDirectory() as name, server(Path(name) / "log", "--tasks", "none") as to:
        folder = Path(name)
        errors = (folder / "edge.log").open("w")
        process = subprocess.Popen(
            [
                *(command("featherwire-edge"), "stream", "-", "--live", "--server", to),
                *("--spool", str(folder / "spool"), "--motion", "0.2", "--bpp", "0.1", "--json"),
                *("--to", str(folder / "r.jsonl"), "--to", "http://127.0.0.1:9/", "--grace", "3"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            rows, end = _watched(process, minutes * 60)
        finally:
            process.kill()
            process.wait()
            errors.close()
        if not end:
            raise DemoError(f"the stream did not end well:\n{(folder / 'edge.log').read_text()}")
    return {"minutes": minutes, "rows": rows, "end": end, "growth": growth(rows)}


def growth(rows: list[dict[str, float]]) -> float:
    """Megabytes an hour, by a line through what was measured after the warm-up."""
    last_s = rows[-1]["seconds"]
    kept = [row for row in rows if row["seconds"] >= WARM_UP * last_s]
    seconds = np.array([row["seconds"] for row in kept])
    slope = np.polyfit(seconds, [row["megabytes"] for row in kept], 1)[0] if len(kept) > 1 else 0.0
    return round(float(slope) * 3600, 2)


def soak_table(found: dict[str, Any]) -> str:
    """A page for people."""
    end = found["end"]
    lines = [
        f"`featherwire-edge stream` for {found['minutes']:g} minutes: {end['sent']} frames sent, "
        f"{end['results']} results, dropped {end['dropped']}.",
        "",
        "| seconds | MB | threads | open files |",
        "| ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['seconds']:.0f} | {row['megabytes']:.1f} | {row['threads']} | {row['files']} |"
        for row in found["rows"]
    ]
    return "\n".join([*lines, "", f"Growth after the warm-up: {found['growth']} MB an hour.", ""])


def _watched(
    process: subprocess.Popen[bytes], seconds: float
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Samples of the process while it runs, and its last words."""
    stop = threading.Event()
    end: dict[str, Any] = {}

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "end":
                end.update(event)

    threads = [threading.Thread(target=read), threading.Thread(target=_feed, args=(process, stop))]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    rows = []
    for number in range(1, SAMPLES + 1):
        time.sleep(max(0.0, began + seconds * number / SAMPLES - time.monotonic()))
        if process.poll() is not None:
            break
        rows.append({"seconds": time.monotonic() - began, **_facts(process.pid)})
    process.send_signal(signal.SIGTERM)
    stop.set()
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    process.kill()
    for thread in threads:
        thread.join(10)
    return rows, end


def _facts(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "megabytes": int(fields["VmRSS"].split()[0]) * 1024 / 1e6,
        "threads": int(fields["Threads"]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
    }


def _feed(process: subprocess.Popen[bytes], stop: threading.Event) -> None:
    """A noisy scene, through which something goes for five seconds of ten."""
    rng = np.random.default_rng(1)
    base = np.kron(rng.integers(40, 200, (12, 16, 3)), np.ones((20, 20, 1))).astype(np.int16)
    number = 0
    assert process.stdin is not None
    with suppress(OSError):
        while not stop.wait(1 / FRAMES_PER_SECOND):
            pixels = base + rng.integers(-8, 9, base.shape, dtype=np.int16)
            if number // (5 * FRAMES_PER_SECOND) % 2:
                x = number * 4 % 280
                pixels[80:160, x : x + 30] = 10
            jpeg = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(jpeg, "JPEG", quality=85)
            process.stdin.write(jpeg.getvalue())
            process.stdin.flush()
            number += 1
    with suppress(OSError):
        process.stdin.close()

"""Peak memory of the edge client's command, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.demo.processes import DemoError, command

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

"""Checks of native libraries, each imported in a process of its own: some crash instead of failing.

What a child prints is one line of JSON; a child that dies, or is silent for too long, is a finding.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shared.doctor.finding import Finding, Role, State
from shared.doctor.install import Installed
from shared.installation import install_command

AREA = "runtime"
PROBE_TIMEOUT_S = 90.0

_BASE = """
import json, google_crc32c, numpy, PIL.Image, pydantic, google.protobuf
print(json.dumps({"version": numpy.__version__}))
"""
_TORCH = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "devices": names}))
"""
_ONNXRUNTIME = """
import json, onnxruntime
print(json.dumps({
    "version": onnxruntime.__version__, "devices": onnxruntime.get_available_providers(),
}))
"""
_OPENCV = """
import json, cv2
print(json.dumps({"version": cv2.__version__}))
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a child process said: ``values`` when it succeeded, else ``error`` in a line."""

    values: dict[str, Any] | None
    error: str = ""


def probe(script: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Run a script that prints one JSON object as its last line."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return Probe(None, f"no answer within {timeout_s:g} s")
    except OSError as error:
        return Probe(None, f"cannot be started: {error}")
    if done.returncode < 0:
        return Probe(None, f"crashed (signal {-done.returncode})")
    if done.returncode > 0:
        lines = done.stderr.strip().splitlines()
        return Probe(None, lines[-1] if lines else f"exit status {done.returncode}")
    try:
        values = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return Probe(None, "answered nothing that could be read")
    return Probe(values) if isinstance(values, dict) else Probe(None, "answered no object")


def gpus() -> list[str]:
    """Names of the machine's NVIDIA GPUs as its driver says them; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] * (
        done.returncode == 0
    )


def check_runtimes(
    installed: Installed, roles: Sequence[Role], found_gpus: Sequence[str] | None = None
) -> Iterator[Finding]:
    """Whether native libraries load, and whether they reach the GPU.

    found_gpus: names of this machine's GPUs; None asks the driver.
    """
    devices = gpus() if found_gpus is None else list(found_gpus)
    yield Finding(
        AREA, "gpu", "ok", ", ".join(devices) or "none with a driver; everything runs on the CPU"
    )
    yield _loaded(
        "base packages",
        probe(_BASE),
        True,
        install_command(again=True),
    )
    if {"onnxruntime", "onnxruntime-gpu"} & set(installed.versions):
        yield _on_gpu(
            _loaded(
                "onnxruntime",
                answer := probe(_ONNXRUNTIME),
                bool(roles),
                "pip install --force-reinstall onnxruntime",
            ),
            answer,
            "CUDAExecutionProvider" in (answer.values or {}).get("devices", ()),
            devices,
            f"pip uninstall -y onnxruntime && {install_command('gpu')} (a device), or "
            f"{install_command('cloud-gpu')} (a server)",
        )
    if "torch" in installed.versions:
        yield _on_gpu(
            _loaded(
                "torch",
                answer := probe(_TORCH),
                "cloud" in roles or "train" in roles,
                "pip install --force-reinstall torch",
            ),
            answer,
            bool((answer.values or {}).get("devices")),
            devices,
            "pip install --force-reinstall torch, from PyTorch's index for the driver's CUDA",
        )
    if any(name.startswith("opencv-") for name in installed.versions):
        yield _loaded(
            "opencv",
            probe(_OPENCV),
            "cloud" in roles,
            "pip install --force-reinstall opencv-python-headless",
        )


def _loaded(name: str, answer: Probe, needed: bool, mend: str) -> Finding:
    if answer.values is None:
        state: State = "problem" if needed else "warning"
        return Finding(AREA, name, state, f"cannot be imported: {answer.error}", mend)
    words = str(answer.values.get("version", "loads"))
    devices = answer.values.get("devices")
    if devices is not None:
        words += f" ({', '.join(map(str, devices)) or 'CPU alone'})"
    return Finding(AREA, name, "ok", words if name != "base packages" else "load")


def _on_gpu(
    loaded: Finding, answer: Probe, reaches: bool, devices: Sequence[str], mend: str
) -> Finding:
    """The finding of a library that loads, but does not see the GPU that the driver names."""
    if answer.values is None or reaches or not devices:
        return loaded
    found = f"{loaded.found}: does not reach the GPU"
    return Finding(AREA, loaded.name, "optional", found, mend)

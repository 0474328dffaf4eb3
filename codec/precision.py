"""Which of a bundle's extractors this machine runs faster: measured once, and remembered.

int8 wins by a factor of three where the processor multiplies bytes by the dozen (VNNI, dot product
instructions) and may lose where it does not, so only a measurement tells.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

Precision = Literal["fp32", "int8"]

CACHE_VARIABLE = "FEATHERWIRE_PRECISION_CACHE"
WORTHWHILE = 0.9
"""int8 is chosen when it takes at most this share of the time of fp32, which is more exact."""
_RUNS = 3
_FINE_SECONDS = 1e-5
_MAX_BYTES = 4096


def default_cache_dir() -> Path | None:
    """FEATHERWIRE_PRECISION_CACHE, or a folder in the user's cache; None for a homeless user."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE])
    chosen = os.environ.get("XDG_CACHE_HOME")
    try:
        cache = Path(chosen) if chosen else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "featherwire" / "precision"


def machine_facts(runtime_version: str, threads: int) -> dict[str, str]:
    """What a measurement holds for: processor, ONNX Runtime's version, threads."""
    return {
        "cpu": _processor(),
        "onnxruntime": runtime_version,
        "threads": str(threads),
    }


def trial_clock(threads: int) -> Callable[[], float]:
    """Seconds that leave out other processes' turns on a busy machine, where one thread works."""
    if threads == 1 and time.get_clock_info("thread_time").resolution < _FINE_SECONDS:
        return time.thread_time
    return time.perf_counter


def fastest(
    runs: Mapping[Precision, Callable[[], object]], clock: Callable[[], float]
) -> tuple[Precision, dict[str, float]]:
    """The precision to use, and the milliseconds each took: the least of three runs, in turns.

    The first call of each, which may allocate, does not count.
    """
    seconds: dict[Precision, list[float]] = {name: [] for name in runs}
    for number in range(_RUNS + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if number:
                seconds[name].append(clock() - started)
    best = {name: 1e3 * min(taken) for name, taken in seconds.items()}
    chosen: Precision = "int8" if best["int8"] <= WORTHWHILE * best["fp32"] else "fp32"
    return chosen, {name: round(value, 3) for name, value in best.items()}


def recall(folder: Path | None, facts: Mapping[str, str]) -> Precision | None:
    """The remembered choice for exactly these facts; None when there is none that can be used."""
    if folder is None:
        return None
    try:
        with _entry(folder, facts).open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("facts") != dict(facts):
        return None
    precision = found.get("precision")
    return precision if precision in ("fp32", "int8") else None


def remember(
    folder: Path | None,
    facts: Mapping[str, str],
    precision: Precision,
    milliseconds: Mapping[str, float],
) -> None:
    """Keep a choice for the next process. A full or read-only disk costs the memory, no more."""
    if folder is None:
        return
    values = {"facts": dict(facts), "precision": precision, "milliseconds": dict(milliseconds)}
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".precision-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(values, file, indent=1)
            os.replace(name, _entry(folder, facts))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _entry(folder: Path, facts: Mapping[str, str]) -> Path:
    text = json.dumps(dict(facts), sort_keys=True).encode()
    return folder / f"{hashlib.sha256(text).hexdigest()[:32]}.json"


def _processor() -> str:
    """Model and instruction sets of the first core, as a hash after what people call it."""
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
            first = file.read(16384).split("\n\n", 1)[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    lines = [line.split(":", 1) for line in first.splitlines() if ":" in line]
    values = {key.strip(): value.strip() for key, value in lines}
    telling = {
        key: value
        for key, value in values.items()
        if key in ("vendor_id", "model name", "cpu family", "model", "flags", "Features")
        or key.startswith("CPU ")
    }
    digest = hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()[:16]
    return f"{platform.machine()} {values.get('model name', '')} {digest}".replace("  ", " ")

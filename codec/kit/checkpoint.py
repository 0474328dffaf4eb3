"""What steps leave: checkpoints as safetensors (weights, their average, the optimiser's moments)
and arrays as .npz. No pickle."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CHECKPOINT = "checkpoint.safetensors"
"""The fit step's file in a run's folder."""


def save(
    path: Path,
    modules: dict[str, nn.Module],
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer | None,
    facts: dict[str, object],
) -> None:
    """Write atomically: ``facts`` (JSON-ready) go into the file's metadata."""
    tensors = {
        f"{prefix}/{key}": value.detach().cpu().clone()
        for prefix, module in modules.items()
        for key, value in module.state_dict().items()
    }
    tensors |= {f"average/{key}": value.detach().cpu().clone() for key, value in average.items()}
    if optimiser is not None:
        for number, state in optimiser.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"moments/{number}/{key}"] = torch.as_tensor(value).detach().cpu().clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"facts": json.dumps(facts)})
    os.replace(partial, path)


def load(
    path: Path,
    modules: dict[str, nn.Module],
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer | None,
) -> None:
    """Put what :func:`save` wrote back into place. Raises RuntimeError on other shapes."""
    tensors = load_file(path)
    for prefix, module in modules.items():
        start = f"{prefix}/"
        module.load_state_dict(
            {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
        )
    for key, value in average.items():
        value.copy_(tensors[f"average/{key}"])
    if optimiser is None:
        return
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("moments/"):
            _, number, name = key.split("/")
            state.setdefault(int(number), {})[name] = value
    if state:
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state, "param_groups": groups})


def facts(path: Path) -> dict[str, object]:
    """The metadata of a checkpoint, without reading its tensors."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        found: dict[str, object] = json.loads(file.metadata()["facts"])
    return found


def averaged(path: Path, prefix: str) -> dict[str, Tensor]:
    """The moving average of one module's weights: keys without the prefix."""
    start = f"average/{prefix}/"
    return {
        key[len(start) :]: value for key, value in load_file(path).items() if key.startswith(start)
    }


def buffers(path: Path, prefix: str) -> dict[str, Tensor]:
    """One module's tensors as trained (not averaged): keys without the prefix."""
    start = f"{prefix}/"
    return {
        key[len(start) :]: value for key, value in load_file(path).items() if key.startswith(start)
    }


def npz(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """The arrays as a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()

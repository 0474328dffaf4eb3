"""TensorFlow Lite files through LiteRT."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ModelError, TaskError
from shared.installation import install_command


class LiteModel:
    """A TensorFlow Lite model in one interpreter, used by one thread at a time.

    The first of a process makes LiteRT write ``INFO: Created TensorFlow Lite XNNPACK delegate`` to
    file descriptor 2. Its logger has no setting outside C++, and the descriptor is the whole
    process's: turned away for a moment, it would lose what other threads, children, or a crash
    write, so the line stays.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        try:
            litert: Any = importlib.import_module("ai_edge_litert.interpreter")
        except ImportError as error:
            raise ModelError(
                "library_missing",
                "this task needs LiteRT, which is not installed",
                command=install_command("tasks"),
            ) from error
        try:
            self._interpreter: Any = litert.Interpreter(str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError("damaged", f"{path.name} is no usable model: {error}") from error
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = {d["name"]: d["index"] for d in self._interpreter.get_output_details()}

    def run(self, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Outputs by name (batch axis included) for one [H, W, 3] input."""
        try:
            self._interpreter.set_tensor(self._input, image[None])
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise TaskError("inference_failed", f"LiteRT failed: {error}") from error
        return {name: self._interpreter.get_tensor(at) for name, at in self._outputs.items()}


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logistic function, in float64 and without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64))))

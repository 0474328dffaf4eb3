"""Ultralytics' library (AGPL-3.0, an extra of its own), and a model of one of its weights files."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from codec.kit.libraries.torchvision_ops import ensure_torchvision
from shared.errors import ModelError


def import_yolo() -> tuple[Any, str]:
    """Ultralytics' model class and version, without the liberties that it takes by default.

    Raises ModelError ``library_missing``.
    """
    # Read when it is imported: install no packages, load weights without running pickled code.
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "true")
    os.environ.setdefault("YOLO_VERBOSE", "false")  # it logs to stdout
    try:
        ensure_torchvision()
        ultralytics: Any = importlib.import_module("ultralytics")
        events: Any = importlib.import_module("ultralytics.utils.events")
    except ImportError as error:
        raise ModelError(
            "library_missing",
            f"the ultralytics back end cannot be imported ({error})",
            command="pip install 'featherwire[ultralytics]'",
        ) from error
    # No usage reports from a server.
    events.events.enabled = False
    return ultralytics.YOLO, str(ultralytics.__version__)


def load_yolo(yolo: Any, path: Path, task: str) -> Any:
    """The model in a weights file that does ``task`` (Ultralytics' name for it).

    Raises ModelError ``damaged`` or ``wrong_model``.
    """
    try:
        model = yolo(str(path))
    except Exception as error:  # a checkpoint makes its loader raise anything
        raise ModelError("damaged", f"{path} is no usable model: {error}") from error
    if model.task != task:
        raise ModelError("wrong_model", f"{path.name} does {model.task}, not {task}")
    return model

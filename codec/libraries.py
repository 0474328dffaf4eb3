"""Other people's libraries, kept usable beside the versions that we install.

torchvision beside a torch that its C++ library does not load into: torchvision from one index and
torch (say, the CPU build) from another disagree about symbols: the C++ operators are missing, and
``import torchvision`` ends with "operator torchvision::nms does not exist". What we and Ultralytics
use of torchvision is Python, and non-maximum suppression, which is a few lines of torch. Where the
C++ operators load, nothing here takes effect.

Ultralytics (AGPL-3.0, an extra of its own), without the liberties that it takes by default.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from shared.errors import ModelError
from shared.installation import install_command

_lock = threading.Lock()
# A torch.library.Library takes its operators away when it is collected.
_library: Any = None


def ensure_torchvision() -> None:
    """Import torchvision, lending it an ``nms`` when its own operators do not load.

    To be called before anything else imports torchvision; calling it again does nothing. Raises
    ImportError when torchvision is not installed.
    """
    global _library
    with _lock:
        if "torchvision" in sys.modules:
            return
        needed = not _own_operators_load()
        if needed and _library is None:
            library: Any = _any(torch.library).Library("torchvision", "FRAGMENT")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            # Only declared: torchvision registers a shape rule for it while it is imported.
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.impl("nms", nms, "CompositeExplicitAutograd")
            _library = library
        importlib.import_module("torchvision")
        if needed:
            # nms of torchvision.ops refuses without the C++ library; the other operators of that
            # library are still missing, and still say so.
            boxes: Any = importlib.import_module("torchvision.ops.boxes")
            boxes._assert_has_ops = _nothing


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
            command=install_command("ultralytics"),
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


def nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression: indices to keep, int64, by falling score.

    dets: [N, 4] as x1, y1, x2, y2; scores: [N]. A box goes when its IoU with a better one that
    stays is over ``iou_threshold``; equal scores keep their order.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = dets[order].float()
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        box, rest = boxes[index], boxes[index + 1 :]
        sides = torch.minimum(box[2:], rest[:, 2:]) - torch.maximum(box[:2], rest[:, :2])
        shared = sides.clamp_min(0).prod(dim=1)
        alive[index + 1 :] &= ~(shared / (area[index] + area[index + 1 :] - shared) > iou_threshold)
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def _own_operators_load() -> bool:
    """Whether torchvision's C++ library loads into this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed")
    libraries = sorted(Path(spec.origin).parent.glob("_C*"))
    for library in libraries:
        try:
            _any(torch.ops).load_library(str(library))
        except (OSError, ImportError):
            continue
        return True
    return False


def _any(module: Any) -> Any:
    """A module whose functions have no types, as mypy accepts it."""
    return module


def _nothing() -> None:
    return None

"""Weights of Ultralytics' YOLO models by file name (AGPL-3.0): a local file, else a download.

Their files are not in the catalogue: the project publishes them without hashes, and retrains
them under the same name. What was downloaded is kept under its name, and results carry the
SHA-256 of the file that was used.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from shared.errors import ModelError
from shared.weights.download import copy_url
from shared.weights.store import ModelStore

LICENCE = "AGPL-3.0"

_RELEASE = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
_ASSET_NAME = re.compile(r"(yolo|yolov|rtdetr-)[a-z0-9]+(-seg)?\.pt")
_MAX_BYTES = 512 * 2**20
_TIMEOUT_S = 10


def find_yolo(store: ModelStore, model: str) -> Path | None:
    """The local file of ``model``: a path, or a file name in the store's folders."""
    given = Path(model).expanduser()
    if given.is_file():
        return given
    if given.name != model:
        return None
    places = [folder / model for folder in store.models_dirs]
    places += [store.cache_dir / "ultralytics" / model]
    return next((path for path in places if path.is_file()), None)


def get_yolo(store: ModelStore, model: str, *, release: str = _RELEASE) -> Path:
    """The local file of ``model``, downloaded first when it is a published file's name.

    Raises ModelError(``weights_missing``) with what to do about it.
    """
    found = find_yolo(store, model)
    if found is not None:
        return found
    if not is_yolo_asset(model):
        raise ModelError("weights_missing", f"there is no file {model}", model=model)
    target = store.cache_dir / "ultralytics" / model
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
            incoming = Path(folder) / model
            with incoming.open("wb") as stream:
                copy_url(
                    f"{release}/{model}",
                    stream,
                    max_bytes=_MAX_BYTES,
                    socket_timeout_s=_TIMEOUT_S,
                )
            os.replace(incoming, target)
    except (ModelError, OSError) as error:
        raise ModelError(
            "weights_missing",
            f"{model} is not here and could not be downloaded ({error}); put the file into "
            f"{target.parent}, or give its path",
            command=f"featherwire-cloud models fetch {model}",
            model=model,
        ) from error
    return target


def is_yolo_asset(name: str) -> bool:
    """Whether a name looks like one of the project's published detectors or segmenters."""
    return _ASSET_NAME.fullmatch(name) is not None

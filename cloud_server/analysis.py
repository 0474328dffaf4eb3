"""Tasks on one file at a time, for commands: a .fwf is reconstructed, a photo taken as it is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cloud_server.decoding import BitstreamDecoder
from cloud_server.models import ModelStore
from cloud_server.tasks import open_task
from shared.bitstream import MAGIC
from shared.bundle import Bundle
from shared.preprocess import load_photo
from shared.results import AnalysisResult

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Analysed:
    """A file's picture (uint8 [H, W, 3] RGB) and what was found in it.

    passes: that the file has of the layer after its state; None for a photo. warning: what is
    wrong with a file that was decoded all the same.
    """

    picture: Pixels
    result: AnalysisResult
    passes: int | None
    warning: str | None


class Analyzer:
    """Opens tasks once, then analyses any number of files."""

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        bundle: str | None = None,
        backends: Mapping[str, str | None] | None = None,
        device: str = "cpu",
        store: ModelStore | None = None,
    ) -> None:
        """backends: task name -> back end or weights, where not the embedded one.

        Raises ModelError when weights are missing, TaskError for an unknown task.

        The bundle is loaded when the first .fwf comes: photos alone need none.
        """
        store = store or ModelStore()
        chosen = backends or {}
        self._tasks = {
            name: open_task(name, store, chosen.get(name), device=device) for name in tasks
        }
        self._bundle_source = bundle
        self._device = device
        self._decoder: BitstreamDecoder | None = None

    def analyze(
        self, data: bytes, state: int | None = None, *, features: bool | None = None
    ) -> Analysed:
        """Run every task on one file.

        data: a .fwf file or a photo; its first bytes tell, unless ``features`` says which it has
        to be. state: decode at this coarser state. Raises BitstreamError,
        BundleError, PhotoError or TaskError.
        """
        started = time.perf_counter()
        passes: int | None = None
        warning: str | None = None
        if features is None:
            features = data.startswith(MAGIC)
        if features:
            decoder = self._open_decoder()
            bitstream, warning = decoder.parse(data, state)
            picture = decoder.picture(bitstream)
            passes = bitstream.passes
            described = {
                "state": bitstream.state,
                "bundle_id": decoder.bundle.id,
                "payload_bytes": bitstream.file_bytes,
            }
            stage = "reconstruct"
        else:
            picture = np.asarray(load_photo(data))
            described = {"state": None, "bundle_id": None, "payload_bytes": len(data)}
            stage = "load"
        milliseconds = {stage: 1000 * (time.perf_counter() - started)}
        results = {name: task.run([picture])[0] for name, task in self._tasks.items()}
        height, width = picture.shape[:2]
        for name, result in results.items():
            milliseconds[name] = sum(result.milliseconds.values())
        analysis = AnalysisResult.model_validate(
            {
                "width": width,
                "height": height,
                "bits_per_pixel": 8 * described["payload_bytes"] / (width * height),
                "tasks": results,
                "milliseconds": milliseconds,
                **described,
            }
        )
        return Analysed(picture, analysis, passes, warning)

    def _open_decoder(self) -> BitstreamDecoder:
        if self._decoder is None:
            bundle = Bundle.load(self._bundle_source)
            self._decoder = BitstreamDecoder(bundle, device=self._device)
        return self._decoder

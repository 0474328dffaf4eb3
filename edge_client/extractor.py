"""The feature extractor: a bundle's ONNX file, run whole or in tiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from shared.bundle import Bundle
from shared.errors import BundleError
from shared.preprocess import pad_to_multiple

Pixels = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

EXTRACTOR_FILE = "extractor.onnx"
TILE_POSITIONS = 64
"""Side of a tile in positions of the coarsest grid: 1024 pixels at stride 16."""


class FeatureExtractor:
    """image uint8 [H, W, 3] -> features float32 [C, h, w] per scale."""

    def __init__(self, bundle: Bundle, *, threads: int = 1) -> None:
        """threads: for one picture. Raises BundleError when the ONNX file does not fit."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        wanted = [
            name
            for name in ("CUDAExecutionProvider", "CPUExecutionProvider")
            if name in ort.get_available_providers()
        ]
        try:
            self._session = ort.InferenceSession(
                bundle.read(EXTRACTOR_FILE), options, providers=wanted
            )
        except BundleError:
            raise
        except Exception as error:  # noqa: BLE001  onnxruntime's errors share no base class
            raise BundleError("bad_extractor", f"{EXTRACTOR_FILE}: {error}") from None
        manifest = bundle.manifest
        self._scales = {scale.name: scale for scale in manifest.scales}
        self._multiple = manifest.input_multiple
        self._halo = manifest.halo_positions
        outputs = {output.name for output in self._session.get_outputs()}
        missing = set(self._scales) - outputs
        if missing:
            raise BundleError(
                "bad_extractor", f"{EXTRACTOR_FILE} lacks outputs {', '.join(sorted(missing))}"
            )

    @property
    def providers(self) -> list[str]:
        """The execution providers in use, most wanted first."""
        return list(self._session.get_providers())

    def __call__(self, image: Pixels) -> dict[str, FloatArray]:
        """Features of the picture padded to the bundle's multiple: float32 [C, h, w] a scale.

        Tiles overlap by more than the network can see, so that large pictures have the features
        they would have whole (up to floating point noise, which only the encoder sees).
        """
        padded = pad_to_multiple(image, self._multiple)
        rows, columns = (side // self._multiple for side in padded.shape[:2])
        if rows * columns <= (TILE_POSITIONS + 2 * self._halo) ** 2:
            return self._run(padded)
        features = {
            name: np.empty(
                (
                    scale.channels,
                    padded.shape[0] // scale.stride,
                    padded.shape[1] // scale.stride,
                ),
                np.float32,
            )
            for name, scale in self._scales.items()
        }
        for top, bottom in _spans(rows):
            for left, right in _spans(columns):
                self._run_tile(padded, features, (top, bottom), (left, right))
        return features

    def _run_tile(
        self,
        padded: Pixels,
        features: dict[str, FloatArray],
        vertical: tuple[int, int],
        horizontal: tuple[int, int],
    ) -> None:
        (top, bottom), (left, right) = vertical, horizontal
        first_row, first_column = max(0, top - self._halo), max(0, left - self._halo)
        step = self._multiple
        tile = padded[
            first_row * step : (bottom + self._halo) * step,
            first_column * step : (right + self._halo) * step,
        ]
        for name, values in self._run(np.ascontiguousarray(tile)).items():
            ratio = step // self._scales[name].stride
            features[name][:, top * ratio : bottom * ratio, left * ratio : right * ratio] = values[
                :,
                (top - first_row) * ratio : (bottom - first_row) * ratio,
                (left - first_column) * ratio : (right - first_column) * ratio,
            ]

    def _run(self, image: Pixels) -> dict[str, FloatArray]:
        names = list(self._scales)
        outputs = self._session.run(names, {self._session.get_inputs()[0].name: image})
        return {
            name: np.asarray(values, np.float32)
            for name, values in zip(names, outputs, strict=True)
        }


def _spans(positions: int) -> Iterator[tuple[int, int]]:
    for start in range(0, positions, TILE_POSITIONS):
        yield start, min(start + TILE_POSITIONS, positions)

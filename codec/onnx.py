"""The feature extractor: one of a bundle's ONNX files, whole or in tiles, at the faster precision.

int8 wins by a factor of three where the processor multiplies bytes by the dozen (VNNI, dot product
instructions) and may lose where it does not, so only a measurement tells. It is done once, and
remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from codec.base import PrecisionChoice
from codec.runtime.graph import padded_by_convolutions
from codec.runtime.resize import Resizer
from codec.settings import EXTRACTOR_FILES, FeatureSettings
from shared.bundle import Bundle
from shared.errors import BundleError
from shared.preprocess import pad_to_multiple

Pixels = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

PRECISION_VARIABLE = "FEATHERWIRE_PRECISION"
TILE_POSITIONS = 64
"""Side of a tile in positions of the coarsest grid: 1024 pixels at stride 16."""
_TRIAL_PIXELS = 256


class FeatureExtractor:
    """image uint8 [H, W, 3] -> features float32 [C, h, w] per scale."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int = 1,
        precision: PrecisionChoice | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """threads: for one picture.

        precision: ``fp32``, ``int8``, or ``auto``, which takes what a short measurement on this
        machine finds faster and remembers it in ``cache_dir`` (the user's cache by default);
        None is what FEATHERWIRE_PRECISION says, else ``auto``. A bundle without the int8 file,
        and a machine with a GPU, get fp32 from ``auto``. The two differ in a small share of
        indices, which a decoder takes as they come.

        Raises BundleError: ``unknown_precision``; ``no_int8`` for int8 that the bundle does not
        have; ``bad_extractor`` for an ONNX file that does not fit the bundle.
        """
        wanted = precision or os.environ.get(PRECISION_VARIABLE) or "auto"
        if wanted not in ("auto", "fp32", "int8"):
            raise BundleError(
                "unknown_precision", f"there is no precision {wanted!r}: auto, fp32 or int8"
            )
        settings = FeatureSettings.of(bundle)
        if wanted == "int8" and EXTRACTOR_FILES["int8"] not in bundle.manifest.files:
            raise BundleError(
                "no_int8",
                f"bundle {bundle.manifest.name} has no int8 network; use fp32 or auto, which takes "
                "it",
            )
        self._settings = settings
        self._scales = {scale.name: scale for scale in settings.scales}
        self._multiple = settings.input_multiple
        self._halo = settings.halo_positions
        self._resizer = Resizer()
        if wanted == "auto":
            self._network = _fastest_network(bundle, settings, threads, cache_dir)
        else:
            self._network = _Network(
                bundle, settings, "int8" if wanted == "int8" else "fp32", threads
            )

    @property
    def precision(self) -> Precision:
        """The arithmetic in use."""
        return self._network.precision

    @property
    def providers(self) -> list[str]:
        """The execution providers in use, most wanted first."""
        return self._network.providers

    def __call__(self, image: Pixels) -> dict[str, FloatArray]:
        """Features of the picture, padded to the bundle's multiple or brought to its size:
        float32 [C, h, w] a scale.

        Tiles overlap by more than the network can see, so that large pictures have the features
        they would have whole (up to floating point noise, which only the encoder sees).
        """
        placement = self._settings.placement(image.shape[1], image.shape[0])
        if placement is not None:
            return self._network(placement.apply(image, self._resizer))
        padded = pad_to_multiple(image, self._multiple)
        rows, columns = (side // self._multiple for side in padded.shape[:2])
        if rows * columns <= (TILE_POSITIONS + 2 * self._halo) ** 2:
            return self._network(padded)
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
        for name, values in self._network(np.ascontiguousarray(tile)).items():
            ratio = step // self._scales[name].stride
            features[name][:, top * ratio : bottom * ratio, left * ratio : right * ratio] = values[
                :,
                (top - first_row) * ratio : (bottom - first_row) * ratio,
                (left - first_column) * ratio : (right - first_column) * ratio,
            ]


class _Network:
    """One ONNX file in a session: padded image uint8 [H, W, 3] -> features per scale."""

    def __init__(
        self, bundle: Bundle, settings: FeatureSettings, precision: Precision, threads: int
    ) -> None:
        import onnxruntime as ort

        self.precision = precision
        self._file = EXTRACTOR_FILES[precision]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Plans for one size: photos and tiles have many, and a plan holds all of its peak memory.
        options.enable_mem_pattern = False
        data = padded_by_convolutions(bundle.read(self._file), _constant_outputs)
        try:
            self._session = ort.InferenceSession(data, options, providers=_providers(precision))
        except Exception as error:  # noqa: BLE001  onnxruntime's errors share no base class
            raise self._refusal(str(error)) from None
        self._scales = {scale.name: scale for scale in settings.scales}
        self._check()

    @property
    def providers(self) -> list[str]:
        return list(self._session.get_providers())

    def __call__(self, image: Pixels) -> dict[str, FloatArray]:
        names = list(self._scales)
        try:
            outputs = self._session.run(names, {"image": image})
        except Exception as error:  # noqa: BLE001  onnxruntime's errors share no base class
            raise self._refusal(str(error)) from None
        features = {
            name: np.asarray(values, np.float32)
            for name, values in zip(names, outputs, strict=True)
        }
        height, width = image.shape[:2]
        for name, scale in self._scales.items():
            expected = (scale.channels, height // scale.stride, width // scale.stride)
            if features[name].shape != expected:
                shape = "x".join(map(str, features[name].shape))
                raise self._refusal(f"{name} is {shape}, not {'x'.join(map(str, expected))}")
            if not np.isfinite(features[name]).all():
                raise self._refusal(f"{name} is not finite")
        return features

    def _check(self) -> None:
        inputs = [(value.name, value.type) for value in self._session.get_inputs()]
        if inputs != [("image", "tensor(uint8)")]:
            raise self._refusal(f"its inputs are {inputs}, not one uint8 tensor 'image'")
        outputs = {output.name for output in self._session.get_outputs()}
        missing = set(self._scales) - outputs
        if missing:
            raise self._refusal(f"it lacks outputs {', '.join(sorted(missing))}")

    def _refusal(self, what: str) -> BundleError:
        return BundleError("bad_extractor", f"{self._file}: {what}")


def _constant_outputs(data: bytes) -> list[npt.NDArray[Any]]:
    """What a small model without inputs gives."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {})]


def _fastest_network(
    bundle: Bundle, settings: FeatureSettings, threads: int, cache_dir: Path | None
) -> _Network:
    """What ``auto`` means; see :class:`FeatureExtractor`."""
    import onnxruntime as ort

    on_gpu = _providers("fp32")[0] != "CPUExecutionProvider"
    if on_gpu or EXTRACTOR_FILES["int8"] not in bundle.manifest.files:
        return _Network(bundle, settings, "fp32", threads)
    folder = cache_dir if cache_dir is not None else default_cache_dir()
    facts = {"bundle": bundle.id, **machine_facts(ort.__version__, threads)}
    known = recall(folder, facts)
    if known is not None:
        return _Network(bundle, settings, known, threads)
    int8, fp32 = (
        _Network(bundle, settings, "int8", threads),
        _Network(bundle, settings, "fp32", threads),
    )
    step = settings.input_multiple
    side = max(1, _TRIAL_PIXELS // step) * step
    shape = (*settings.grid_pixels(side, side), 3)
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    runs: dict[Precision, Callable[[], object]] = {
        "int8": lambda: int8(picture),
        "fp32": lambda: fp32(picture),
    }
    chosen, milliseconds = fastest(runs, trial_clock(threads))
    remember(folder, facts, chosen, milliseconds)
    return int8 if chosen == "int8" else fp32


def _providers(precision: Precision) -> list[str]:
    """int8 runs on the CPU, for which it is made."""
    import onnxruntime as ort

    wanted = ["CPUExecutionProvider"]
    if precision == "fp32":
        wanted.insert(0, "CUDAExecutionProvider")
    available = ort.get_available_providers()
    return [name for name in wanted if name in available]


def _spans(positions: int) -> Iterator[tuple[int, int]]:
    for start in range(0, positions, TILE_POSITIONS):
        yield start, min(start + TILE_POSITIONS, positions)


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

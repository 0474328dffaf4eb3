"""A bundle's tail as a task: a network's second half run on decoded features, and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from codec.latents import FeatureLatents
from codec.settings import FeatureSettings, TailSpec
from codec.tails.outputs import classifications, detections, regions
from shared.bundle import Bundle
from shared.errors import BundleError, TaskError
from shared.preprocess import Placement
from shared.results import DEFAULT_THRESHOLD, ModelInfo, Stopwatch, TaskResult, check_threshold

FloatArray = NDArray[np.float32]

STATE_INPUT = "state"
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "boxes": ("boxes", "scores"),
    "classes": ("scores",),
    "labels": ("scores",),
}


class TailNetwork:
    """Runs batches of latents of equal shapes. One worker uses it at a time."""

    def __init__(
        self, bundle: Bundle, spec: TailSpec, *, device: str = "cpu", threads: int = 1
    ) -> None:
        """device: ``cuda`` takes the GPU when onnxruntime has it.

        Raises BundleError: ``missing_file``, ``hash_mismatch``; ``bad_tail`` for an ONNX file
        that does not fit the manifest.
        """
        self._spec = spec
        self._scales = {scale.name: scale for scale in FeatureSettings.of(bundle).scales}
        self._names = OUTPUTS[spec.output]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        data = bundle.read(spec.file)
        try:
            self._session = ort.InferenceSession(data, options, providers=_providers(device))
        except Exception as error:  # noqa: BLE001  onnxruntime's errors share no base class
            raise self._refusal(str(error)) from None
        inputs = {value.name for value in self._session.get_inputs()}
        self._takes_state = STATE_INPUT in inputs
        if inputs - {STATE_INPUT} != set(self._scales):
            raise self._refusal(f"its inputs are {sorted(inputs)}, not the scales'")
        missing = set(self._names) - {value.name for value in self._session.get_outputs()}
        if missing:
            raise self._refusal(f"it lacks outputs {', '.join(sorted(missing))}")

    def run(self, batch: Sequence[FeatureLatents]) -> list[dict[str, FloatArray]]:
        """Each picture's outputs, by name, without the batch's axis.

        Raises TaskError ``inference_failed`` when the network fails, or gives what it must not.
        """
        inputs: dict[str, NDArray[np.generic]] = {
            name: np.stack([latents.scales[name] for latents in batch]) for name in self._scales
        }
        if self._takes_state:
            inputs[STATE_INPUT] = np.array([latents.state for latents in batch], np.int64)
        try:
            outputs = self._session.run(list(self._names), inputs)
        except Exception as error:  # noqa: BLE001  onnxruntime's errors share no base class
            raise TaskError("inference_failed", f"{self._spec.file}: {error}") from None
        named = dict(zip(self._names, (np.asarray(v, np.float32) for v in outputs), strict=True))
        self._check(named, len(batch))
        return [{name: values[k] for name, values in named.items()} for k in range(len(batch))]

    def _check(self, outputs: dict[str, FloatArray], count: int) -> None:
        scores = outputs["scores"]
        kinds = len(self._spec.classes)
        fits = {
            "boxes": scores.ndim == 3 and scores.shape[2] == kinds,
            "classes": scores.ndim == 2 and scores.shape[1] == kinds,
            "labels": scores.ndim == 4 and scores.shape[1] == kinds,
        }[self._spec.output] and len(scores) == count
        if self._spec.output == "boxes":
            fits = fits and outputs["boxes"].shape == (*scores.shape[:2], 4)
        if not fits or not all(np.isfinite(values).all() for values in outputs.values()):
            shapes = {name: values.shape for name, values in outputs.items()}
            raise TaskError(
                "inference_failed",
                f"{self._spec.file} gives {shapes} for {kinds} classes, or what is not finite",
            )

    def _refusal(self, what: str) -> BundleError:
        return BundleError("bad_tail", f"{self._spec.file}: {what}")


def _providers(device: str) -> list[str]:
    wanted = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        wanted.insert(0, "CUDAExecutionProvider")
    available = ort.get_available_providers()
    return [name for name in wanted if name in available]


class TailTask:
    """Finds in features what its network would find in the picture."""

    def __init__(
        self,
        bundle: Bundle,
        spec: TailSpec,
        *,
        device: str = "cpu",
        threads: int = 1,
        score_threshold: float | None = None,
    ) -> None:
        """spec: one of the bundle's tails. score_threshold: of boxes; other kinds of output give
        what they have. Raises BundleError as :class:`TailNetwork` does.
        """
        self._settings = FeatureSettings.of(bundle)
        self._spec = spec
        self._network = TailNetwork(bundle, spec, device=device, threads=threads)
        self._threshold = check_threshold(
            DEFAULT_THRESHOLD if score_threshold is None else score_threshold
        )
        self.models = [
            ModelInfo(
                name=spec.model.name,
                version=spec.model.version,
                sha256=bundle.manifest.files[spec.file].sha256,
                licence=spec.model.licence,
            )
        ]

    @property
    def name(self) -> str:
        """What ``--tasks`` calls it."""
        return self._spec.task

    def run(self, batch: Sequence[FeatureLatents]) -> list[TaskResult]:
        """One result per picture, in order. The latents must have equal shapes.

        Raises TaskError ``inference_failed``.
        """
        watch = Stopwatch()
        with watch.stage("inference"):
            outputs = self._network.run(batch)
        share = watch.milliseconds["inference"] / max(1, len(batch))
        return [
            self._result(latents, output, share)
            for latents, output in zip(batch, outputs, strict=True)
        ]

    def _result(
        self, latents: FeatureLatents, output: dict[str, FloatArray], inference_ms: float
    ) -> TaskResult:
        watch = Stopwatch()
        watch.milliseconds["inference"] = inference_ms
        with watch.stage("postprocess"):
            found = self._found(output, self._placement(latents))
        return TaskResult(
            task=self.name, model=self.models, milliseconds=watch.milliseconds, **found
        )

    def _found(self, output: dict[str, FloatArray], placement: Placement) -> dict[str, Any]:
        """The list that the kind of output fills, by its name in the result."""
        scores = output["scores"]
        match self._spec.output:
            case "boxes":
                boxes = output["boxes"]
                found = detections(boxes, scores, self._spec, placement, self._threshold)
                return {"detections": found}
            case "classes":
                return {"classes": classifications(scores, self._spec)}
            case "labels":
                return {"regions": regions(scores, self._spec, placement)}

    def _placement(self, latents: FeatureLatents) -> Placement:
        """Where the picture lies in what the extractor saw; padding is right and below."""
        width, height = latents.width, latents.height
        placement = self._settings.placement(width, height)
        if placement is not None:
            return placement
        rows, columns = self._settings.grid_pixels(width, height)
        return Placement(width, height, columns, rows, 0, 0, width, height)


def open_tails(
    bundle: Bundle,
    *,
    device: str = "cpu",
    threads: int = 1,
    score_threshold: float | None = None,
) -> Mapping[str, TailTask]:
    """Every tail of the bundle, by task. Raises BundleError."""
    return {
        spec.task: TailTask(
            bundle, spec, device=device, threads=threads, score_threshold=score_threshold
        )
        for spec in FeatureSettings.of(bundle).tails or ()
    }

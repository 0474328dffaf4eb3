"""A bundle's tail as a task: decoded features in, an ordinary task result out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codec.features import FeatureLatents
from codec.settings import FeatureSettings, TailSpec
from codec.tails.boxes import detections
from codec.tails.classes import classifications
from codec.tails.labels import regions
from codec.tails.network import FloatArray, TailNetwork
from shared.bundle import Bundle
from shared.preprocess import Placement
from shared.results import DEFAULT_THRESHOLD, ModelInfo, Stopwatch, TaskResult, check_threshold


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

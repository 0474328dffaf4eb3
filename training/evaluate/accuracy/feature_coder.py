"""A feature bundle's halves in one process: extractor, codec, tails; every state of every chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from codec.layered import FeatureLatents
from codec.markov_palette.coding import MarkovPaletteCodec
from codec.registry import open_codec
from codec.settings import FeatureSettings, TailSpec
from codec.tails.task import TailNetwork
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.preprocess import Placement, pad_to_multiple
from shared.targets import RateTarget
from training.evaluate.accuracy.base import Pixels
from training.evaluate.photos import EvaluationError
from training.evaluate.under_test import CARD_FILE

FloatArray = npt.NDArray[np.float32]


class FeatureCoder:
    """Photo to bitstreams, bitstreams to what tails say. All on one thread."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError for a damaged bundle, EvaluationError ``no_tails``."""
        self.settings = FeatureSettings.of(bundle)
        if not self.settings.tails:
            raise EvaluationError("no_tails", f"bundle {bundle.manifest.name} has no tails")
        self.bundle = bundle
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            bundle.read("extractor.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._codec = open_codec(bundle)
        self._tails = {spec.task: TailNetwork(bundle, spec) for spec in self.settings.tails}
        files = {k: v for k, v in bundle.manifest.files.items() if k != CARD_FILE}
        self.identity = bundle.manifest.model_copy(update={"files": files}).id
        """The bundle's id, were it not for its card."""

    def spec(self, task: str) -> TailSpec:
        """The tail that does ``task``. Raises EvaluationError ``no_tails``."""
        for spec in self.settings.tails or ():
            if spec.task == task:
                return spec
        raise EvaluationError(
            "no_tails", f"bundle {self.bundle.manifest.name} has no tail for {task}"
        )

    def seen(self, picture: Pixels) -> Pixels:
        """What the extractor sees of a picture: resized, or padded. uint8 [h, w, 3]."""
        manifest = self.settings
        placement = manifest.placement(picture.shape[1], picture.shape[0])
        if placement is not None:
            return placement.apply(picture)
        return pad_to_multiple(picture, manifest.input_multiple)

    def placement(self, width: int, height: int) -> Placement:
        """Where a photo of that size lies in what the extractor sees, in pixels."""
        manifest = self.settings
        placement = manifest.placement(width, height)
        if placement is not None:
            return placement
        rows, columns = manifest.grid_pixels(width, height)
        return Placement(width, height, columns, rows, 0, 0, width, height)

    def bitstreams(self, picture: Pixels, states: Sequence[int]) -> Iterator[Bitstream]:
        """The picture at some states, those of one chain cut from one bitstream."""
        height, width = picture.shape[:2]
        features = self._features(self.seen(picture))
        made: dict[int, Bitstream] = {}
        for state in states:
            finest = self.bundle.manifest.finest_of(state)
            if finest not in made:
                target = RateTarget(state=finest)
                made[finest] = self._codec.encode(features, width, height, target)
            yield made[finest].truncate(state)

    def output(self, bitstream: Bitstream, task: str) -> dict[str, FloatArray]:
        """A tail's raw outputs for decoded features, without the batch's axis."""
        return self._tails[task].run([self._codec.decode(bitstream)])[0]

    def uncut(self, seen: Pixels, task: str) -> dict[str, FloatArray]:
        """A tail's raw outputs for features as they are. seen: as :meth:`seen` gives it."""
        features = self._features(seen)
        if isinstance(self._codec, MarkovPaletteCodec):
            # What decoders take of a predicted scale is its residual.
            indices = self._codec.quantise(features)
            palette = self._codec.palette
            features = {name: palette.residual(features, name, indices) for name in features}
        latents = FeatureLatents(features, 0, seen.shape[1], seen.shape[0])
        return self._tails[task].run([latents])[0]

    def _features(self, seen: Pixels) -> dict[str, FloatArray]:
        names = [scale.name for scale in self.settings.scales]
        return dict(zip(names, self._session.run(names, {"image": seen}), strict=True))

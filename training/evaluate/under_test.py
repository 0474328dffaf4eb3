"""A bundle as a codec to measure; beside it the null codec and no codec at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch

from codec.markov_palette.coding import MarkovPaletteCodec
from codec.markov_palette.reconstruct import PictureReconstructor
from codec.settings import FeatureSettings
from shared.bitstream import FORMAT_VERSION, Bitstream
from shared.bundle import Bundle
from shared.preprocess import pad_to_multiple

CARD_FILE = "MODEL_CARD.md"
Pixels = npt.NDArray[np.uint8]
Coded = tuple[int, int, Pixels]
"""(knob, file bytes, decoded pixels)."""


class Codec(Protocol):
    """What is measured: every ``Rival``, and the classes here."""

    @property
    def name(self) -> str:
        """What tables and plots call it."""

    @property
    def identity(self) -> str:
        """What results are cached under: changes whenever files or pictures may."""

    @property
    def knobs(self) -> tuple[int, ...]:
        """Its operating points, coarsest first."""

    @property
    def groups(self) -> frozenset[str] | None:
        """The metric groups that say something about it; None for all."""

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo (uint8 [H, W, 3]) at some of the operating points."""


class BundleCoder:
    """A bundle's two halves in one process: the ONNX extractor, the codec, the decoder."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError for a damaged bundle."""
        self.bundle = bundle
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = ort.InferenceSession(
            bundle.read("extractor.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.codec = MarkovPaletteCodec(bundle)
        self.reconstructor = PictureReconstructor.from_bundle(bundle)
        files = {k: v for k, v in bundle.manifest.files.items() if k != CARD_FILE}
        self.identity = bundle.manifest.model_copy(update={"files": files}).id
        """The bundle's id, were it not for its card: a new text changes no picture."""

    def features(self, pixels: Pixels) -> dict[str, npt.NDArray[np.float32]]:
        """float32 [C, h, w] a scale, of the padded picture."""
        padded = pad_to_multiple(pixels, FeatureSettings.of(self.bundle).input_multiple)
        names = [scale.name for scale in FeatureSettings.of(self.bundle).scales]
        return dict(zip(names, self._session.run(names, {"image": padded}), strict=True))

    def bitstream(self, pixels: Pixels) -> Bitstream:
        """The picture at state 0, all layers."""
        height, width = pixels.shape[:2]
        layers = tuple(self.codec.layers(self.features(pixels)))
        return Bitstream(self.bundle.short_id, width, height, 0, layers)

    def picture(self, bitstream: Bitstream) -> Pixels:
        """The faithful reconstruction."""
        return self.reconstructor.reconstruct([self.codec.decode(bitstream)])[0]

    def picture_of_float16(self, pixels: Pixels) -> tuple[int, Pixels]:
        """(bytes of the features as float16, their reconstruction): no palette, no entropy code."""
        halves = {name: f.astype(np.float16) for name, f in self.features(pixels).items()}
        sent = {name: half.astype(np.float32) for name, half in halves.items()}
        latents = self.codec.decode(self.bitstream(pixels))
        # What decoders take of a predicted scale is its residual.
        exact = {name: self.codec.palette.residual(sent, name, latents.indices) for name in sent}
        latents = replace(latents, scales=exact)
        size = sum(half.nbytes for half in halves.values())
        return size, self.reconstructor.reconstruct([latents])[0]


class States:
    """The bundle at every diffusion state; the knob is the state."""

    name = "featherwire"
    groups = None

    def __init__(self, coder: BundleCoder) -> None:
        self._coder = coder
        self.identity = f"featherwire/{FORMAT_VERSION}/{coder.identity}"
        self.knobs = tuple(range(coder.bundle.manifest.starts[0], -1, -1))

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo encoded once, and cut to each state."""
        whole = self._coder.bitstream(pixels)
        for state in knobs:
            bitstream = whole.truncate(state)
            yield state, bitstream.file_bytes, self._coder.picture(bitstream)


class Bypass:
    """The null codec: the features as float16; the knob is the bits of a value."""

    name = "bypass"
    knobs = (16,)
    groups = None

    def __init__(self, coder: BundleCoder) -> None:
        self._coder = coder
        self.identity = f"float16/{coder.identity}"

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo from unquantised features."""
        for knob in knobs:
            yield (knob, *self._coder.picture_of_float16(pixels))


class Original:
    """The photo itself, 24 bits a pixel: what tasks find without any coding."""

    name = "original"
    identity = "original"
    knobs = (24,)
    groups = frozenset({"tasks"})

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo as it is."""
        for knob in knobs:
            yield knob, pixels.nbytes, pixels

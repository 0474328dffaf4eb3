"""Ways from a photo to an output: a tail on features, a network on pictures, no coding at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from codec.settings import FeatureSettings
from shared.bitstream import FORMAT_VERSION
from training.evaluate.accuracy.base import Coded, Kind, Network
from training.evaluate.accuracy.feature_coder import FeatureCoder
from training.evaluate.photos import EvaluationPhoto
from training.evaluate.under_test import Codec


class Tail:
    """A feature bundle at every state of every chain; the knob is the state."""

    def __init__(self, coder: FeatureCoder, task: str, kind: Kind) -> None:
        """task: one of the bundle's tails', whose outputs are of ``kind``."""
        self._coder, self._task, self._kind = coder, task, kind
        self._spec = coder.spec(task)
        manifest = coder.bundle.manifest
        self.name = manifest.name
        self.identity = f"tail/{FORMAT_VERSION}/{task}/{kind.version}/{coder.identity}"
        self.knobs = tuple(range(manifest.coarsest_state, -1, -1))

    def points(self, photo: EvaluationPhoto, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo encoded once a chain, and cut to each state."""
        height, width = photo.pixels.shape[:2]
        placement = self._coder.placement(width, height)
        for state, bitstream in zip(
            knobs, self._coder.bitstreams(photo.pixels, knobs), strict=True
        ):
            outputs = self._coder.output(bitstream, self._task)
            output = self._kind.of_tail(outputs, self._spec, placement, photo)
            yield Coded(state, bitstream.file_bytes, output)


class Pictures:
    """A codec of pictures, and the whole network on what it makes of the photo at full size."""

    def __init__(self, codec: Codec, network: Network, name: str | None = None) -> None:
        """name: None is the codec's."""
        self._codec, self._network = codec, network
        self.name = name or codec.name
        self.identity = f"{codec.identity}|{network.identity}"
        self.knobs = codec.knobs

    def points(self, photo: EvaluationPhoto, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo coded, decoded, and shown to the network."""
        for knob, size, decoded in self._codec.points(photo.pixels, knobs):
            yield Coded(knob, size, self._network.run(decoded, photo))


class Uncompressed:
    """The whole network on the photo itself; the knob is the bits of a pixel."""

    name = "uncompressed"
    knobs = (24,)

    def __init__(self, network: Network) -> None:
        self._network = network
        self.identity = f"uncompressed|{network.identity}"

    def points(self, photo: EvaluationPhoto, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo as it is."""
        for knob in knobs:
            yield Coded(knob, photo.pixels.nbytes, self._network.run(photo.pixels, photo))


class Unquantised:
    """A tail on features that nobody quantised, as float16 for their bytes; the knob is its bits.

    What the cut itself costs, without palette and entropy coding.
    """

    knobs = (16,)

    def __init__(self, coder: FeatureCoder, network: Network) -> None:
        """network: the bundle's halves joined."""
        self._coder, self._network = coder, network
        self.name = f"{coder.bundle.manifest.name}-unquantised"
        self.identity = f"unquantised|{network.identity}"

    def points(self, photo: EvaluationPhoto, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo through both halves."""
        manifest = FeatureSettings.of(self._coder.bundle)
        height, width = photo.pixels.shape[:2]
        rows, columns = manifest.grid_pixels(width, height)
        values = sum(
            scale.channels * (rows // scale.stride) * (columns // scale.stride)
            for scale in manifest.scales
        )
        for knob in knobs:
            yield Coded(knob, values * knob // 8, self._network.run(photo.pixels, photo))

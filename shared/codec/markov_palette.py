"""The Markov palette codec: nearest leaves, then one range coder message per diffusion step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from shared.bitstream import Bitstream, Layer
from shared.bundle import Bundle
from shared.codec.base import Latents
from shared.codec.registry import register_codec
from shared.entropy import BitDecoder, BitEncoder, ContextTables, Exchange, PlaneContexts
from shared.errors import BitstreamError, BundleError
from shared.palette import MarkovPalette
from shared.palette.chain import Features, Indices

PALETTE_FILE = "palette.npz"
CONTEXTS_FILE = "contexts.npz"
_WORST_BITS_PER_SPLIT = 16
_MESSAGE_SLACK_BYTES = 16

ContextObserver = dict[str, npt.NDArray[np.int64]]
"""Counts of bits: plane -> int64 [2, number of contexts] (bit 0, bit 1); training fills it."""


@register_codec("markov-palette")
class MarkovPaletteCodec:
    """Encodes features to layers and decodes layers to colours; see the design of the codec."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError when palettes or tables are damaged or do not fit the manifest."""
        manifest = bundle.manifest
        palette = MarkovPalette.from_arrays(
            manifest.planes, manifest.states, bundle.read_arrays(PALETTE_FILE)
        )
        arrays = bundle.read_arrays(CONTEXTS_FILE)
        tables = {p.name: ContextTables.from_arrays(p.name, arrays) for p in manifest.planes}
        for plane in manifest.planes:
            nodes = tables[plane.name].probabilities.shape[1]
            if nodes != 2**plane.depth - 1:
                raise BundleError("bad_contexts", f"plane {plane.name}: {nodes} context nodes")
        self.palette = palette
        self._bundle = bundle
        self._tables = tables
        self._strides = {scale.name: scale.stride for scale in manifest.scales}
        self._channels = {scale.name: scale.channels for scale in manifest.scales}

    def layers(self, features: Features) -> Iterator[Layer]:
        """See :meth:`shared.codec.base.Codec.layers`."""
        return self.encode_indices(self.quantise(features))

    def quantise(self, features: Features) -> Indices:
        """Indices at state 0: int32 [h, w] a plane. Raises ValueError on wrong features."""
        for name, channels in self._channels.items():
            if name not in features or features[name].ndim != 3:
                raise ValueError(f"features of scale {name!r} are missing or not [C, h, w]")
            if features[name].shape[0] != channels or not np.isfinite(features[name]).all():
                raise ValueError(f"features of scale {name!r} must be {channels} finite channels")
        return self.palette.encode(features)

    def encode_indices(self, indices: Indices, *, finest: int = 0) -> Iterator[Layer]:
        """Layers from the coarsest state to ``finest``; indices are those of state 0."""
        contexts = self._contexts({name: grid.shape for name, grid in indices.items()})
        for state in range(self.palette.coarsest_state, finest - 1, -1):
            encoder = BitEncoder()
            for plane, depth in self._steps(state):
                nodes, bits = self._known_split(plane, depth, indices[plane])
                contexts[plane].split(nodes, depth, self._encoding(plane, bits, encoder))
            yield Layer(state, encoder.payload())

    def observe(self, indices: Indices, counts: ContextObserver) -> None:
        """Count every split's bit in its context over the whole chain; for making tables."""
        contexts = self._contexts({name: grid.shape for name, grid in indices.items()})
        for state in range(self.palette.coarsest_state, -1, -1):
            for plane, depth in self._steps(state):
                nodes, bits = self._known_split(plane, depth, indices[plane])
                contexts[plane].split(nodes, depth, _counting(counts[plane], bits))

    def decode(self, bitstream: Bitstream) -> Latents:
        """See :meth:`shared.codec.base.Codec.decode`."""
        indices = self.decode_indices(bitstream)
        scales = self.palette.decode(indices, bitstream.state)
        return Latents(scales, indices, bitstream.state, bitstream.width, bitstream.height)

    def decode_indices(self, bitstream: Bitstream) -> Indices:
        """Indices at the bitstream's state: int32 [h, w] a plane.

        Raises BitstreamError: ``wrong_bundle``, ``bad_state``, ``limit_exceeded``,
        ``bad_payload``.
        """
        self._check(bitstream)
        shapes = {p.name: self._grid(p.scale, bitstream) for p in self.palette.planes}
        grids = {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}
        contexts = self._contexts(shapes)
        for layer in bitstream.layers:
            try:
                decoder = BitDecoder(layer.payload)
                for plane, depth in self._steps(layer.state):
                    exchange = self._decoding(plane, decoder)
                    grids[plane] = contexts[plane].split(grids[plane], depth, exchange)
                decoder.finish()
            except BitstreamError as error:
                raise BitstreamError(
                    error.reason, f"layer of state {layer.state}: {error.message}"
                ) from None
        return grids

    def _steps(self, state: int) -> Iterator[tuple[str, int]]:
        """The splits of a layer in their order: (plane, depth)."""
        before, after = self.palette.depths(state + 1), self.palette.depths(state)
        for plane in self.palette.planes:
            for depth in range(before[plane.name], after[plane.name]):
                yield plane.name, depth

    def _known_split(
        self, plane: str, depth: int, leaves: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """Nodes at ``depth`` [h, w] and the bits that split them [h * w], from leaf indices."""
        below = self.palette.trees[plane].depth - depth
        bits = ((leaves >> (below - 1)) & 1).astype(np.uint8).reshape(-1)
        return leaves >> below, bits

    def _contexts(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, PlaneContexts]:
        """What runs the splits of every plane, on grids of these shapes."""
        return {
            name: PlaneContexts(self.palette.trees[name], self._tables[name].thresholds, *shape)
            for name, shape in shapes.items()
        }

    def _encoding(self, plane: str, bits: npt.NDArray[np.uint8], encoder: BitEncoder) -> Exchange:
        table = self._tables[plane].probabilities.reshape(-1)

        def exchange(
            contexts: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
        ) -> npt.NDArray[np.uint8]:
            here = bits[positions]
            encoder.encode(here, table[contexts])
            return here

        return exchange

    def _decoding(self, plane: str, decoder: BitDecoder) -> Exchange:
        table = self._tables[plane].probabilities.reshape(-1)

        def exchange(
            contexts: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
        ) -> npt.NDArray[np.uint8]:
            return decoder.decode(table[contexts])

        return exchange

    def _grid(self, scale: str, bitstream: Bitstream) -> tuple[int, int]:
        multiple = self._bundle.manifest.input_multiple
        stride = self._strides[scale]
        rows = -(-bitstream.height // multiple) * multiple // stride
        columns = -(-bitstream.width // multiple) * multiple // stride
        return rows, columns

    def _check(self, bitstream: Bitstream) -> None:
        bitstream.check()
        if bitstream.bundle_id != self._bundle.short_id:
            raise BitstreamError(
                "wrong_bundle",
                f"made with bundle {bitstream.bundle_id.hex()}, but this is "
                f"{self._bundle.manifest.name} {self._bundle.short_id.hex()}; "
                "open it with the bundle it was made with (--bundle)",
                wanted=bitstream.bundle_id.hex(),
                have=self._bundle.short_id.hex(),
            )
        if bitstream.layers[0].state != self.palette.coarsest_state:
            raise BitstreamError(
                "bad_state",
                f"begins at state {bitstream.layers[0].state}; "
                f"this bundle's coarsest is {self.palette.coarsest_state}",
            )
        for layer in bitstream.layers:
            before = self.palette.depths(layer.state + 1)
            after = self.palette.depths(layer.state)
            splits = sum(
                (after[plane.name] - before[plane.name])
                * int(np.prod(self._grid(plane.scale, bitstream)))
                for plane in self.palette.planes
            )
            if len(layer.payload) > splits * _WORST_BITS_PER_SPLIT // 8 + _MESSAGE_SLACK_BYTES:
                raise BitstreamError(
                    "limit_exceeded",
                    f"layer of state {layer.state}: {len(layer.payload)} bytes are more than "
                    f"{splits} splits can take",
                )


def _counting(counts: npt.NDArray[np.int64], bits: npt.NDArray[np.uint8]) -> Exchange:
    def exchange(
        contexts: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint8]:
        here = bits[positions]
        width = counts.shape[1]
        flat = np.bincount(here * np.int64(width) + contexts, minlength=2 * width)
        np.add(counts, flat.reshape(2, width), out=counts)
        return here

    return exchange

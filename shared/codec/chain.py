"""One chain of states: leaves, then one range coder message per diffusion step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from shared.bitstream import Bitstream, Layer, PartialLayer
from shared.bitstream.container import HEADER_BYTES, layer_bytes, partial_layer_bytes
from shared.bundle import Bundle
from shared.codec.assignment import RateAwareAssignment
from shared.codec.base import Latents
from shared.codec.rate import FINEST, RateTarget
from shared.entropy import BitDecoder, BitEncoder, ContextModel, PictureContexts
from shared.errors import BitstreamError, BudgetError
from shared.palette import MarkovPalette, Pass
from shared.palette.chain import Depths, Features, Indices
from shared.palette.distortion import DistortionTable

_WORST_BITS_PER_SPLIT = 16
_MESSAGE_SLACK_BYTES = 16

Bits = npt.NDArray[np.uint8]
BitSource = Callable[[Pass, npt.NDArray[np.int64], npt.NDArray[np.uint16]], Bits]
"""Says the bits of a pass, given its positions (flat) and the odds of each: uint8 [n]."""


class ChainCodec:
    """Encodes features to the layers of one chain and decodes them to colours."""

    def __init__(self, bundle: Bundle, palette: MarkovPalette, contexts: ContextModel) -> None:
        """palette, contexts: of this chain; bundle: which it is of."""
        self.palette = palette
        self._contexts = contexts
        self._bundle = bundle
        self._strides = {scale.name: scale.stride for scale in bundle.manifest.scales}
        self._channels = {scale.name: scale.channels for scale in bundle.manifest.scales}

    # -- to bits ---------------------------------------------------------------------------------

    def layers(self, features: Features) -> Iterator[Layer]:
        """See :meth:`shared.codec.base.Codec.layers`."""
        return self.encode_indices(self.quantise(features))

    def encode(
        self,
        features: Features,
        width: int,
        height: int,
        target: RateTarget = FINEST,
        *,
        rate_weight: float | None = None,
        detail: Sequence[float] | None = None,
    ) -> Bitstream:
        """See :meth:`shared.codec.base.Codec.encode`."""
        if target.psnr_db is not None or not rate_weight:
            indices = self.quantise(features, rate_weight)
            state, passes = self._state(target), 0
            if target.psnr_db is not None:
                state, passes = self._reaching(features, indices, target, detail)
            return self.code(
                indices,
                width,
                height,
                state=state,
                passes=passes,
                max_bytes=target.budget_bytes(width, height),
            )
        # The decisions need the odds that coding needs: both in one walk.
        self._check_features(features)
        self._check_extent(self._shapes(features), width, height)
        bits_of = RateAwareAssignment(self.palette, features, rate_weight).bits
        budget = target.budget_bytes(width, height)
        return self._compose(width, height, lambda _: bits_of, self._state(target), 0, budget)

    def quantise(self, features: Features, rate_weight: float | None = None) -> Indices:
        """Indices at the finest state: int32 [h, w] a plane. Raises ValueError on wrong features.

        Those that the palette was made for (:meth:`PaletteTree.leaf`); or the nearest leaves with
        a ``rate_weight`` of 0; or with a greater one those of
        :class:`~shared.codec.assignment.RateAwareAssignment`.
        """
        self._check_features(features)
        if not rate_weight:
            return self.palette.encode(features, nearest=rate_weight is not None)
        contexts = self._contexts.open(self._shapes(features))
        assignment = RateAwareAssignment(self.palette, features, rate_weight)
        for state in range(self.palette.coarsest_state, self.palette.finest_state - 1, -1):
            for step in self.palette.passes(state):
                positions = contexts.positions(step.plane, step.side)
                contexts.advance(
                    *step, assignment.bits(step, positions, contexts.probabilities(*step))
                )
        return {plane.name: contexts.indices(plane.name) for plane in self.palette.planes}

    def encode_indices(self, indices: Indices, *, finest: int | None = None) -> Iterator[Layer]:
        """Layers from the coarsest state to ``finest``; indices are those of the finest state."""
        finest = self.palette.finest_state if finest is None else finest
        contexts = self._contexts.open({name: grid.shape for name, grid in indices.items()})
        bits_of = self._known_bits(indices)
        for state in range(self.palette.coarsest_state, finest - 1, -1):
            yield _whole(self._code_layer(contexts, state, bits_of))

    def code(
        self,
        indices: Indices,
        width: int,
        height: int,
        *,
        state: int | None = None,
        passes: int = 0,
        max_bytes: int | None = None,
    ) -> Bitstream:
        """The bitstream of indices (of the finest state): to ``state``, ``passes`` of the next.

        max_bytes: of the whole file; less is coded where that is not enough. Raises as
        :meth:`encode` does, and ValueError when there are no such passes.
        """
        self._check_extent({name: grid.shape for name, grid in indices.items()}, width, height)
        finest = self.palette.finest_state
        state = finest if state is None else state
        if passes and not 0 < passes < len(
            self.palette.passes(state - 1) if state > finest else ()
        ):
            raise ValueError(f"state {state} cannot be followed by {passes} passes")
        bits_of = self._known_bits(indices)
        return self._compose(width, height, lambda _: bits_of, state, passes, max_bytes)

    def shorten(self, bitstream: Bitstream, max_bytes: int) -> Bitstream:
        """See :meth:`shared.codec.base.Codec.shorten`."""
        self._check(bitstream)
        if bitstream.file_bytes <= max_bytes:
            return bitstream
        parts: dict[int, bytes] = {layer.state: layer.payload for layer in bitstream.layers}
        passes = 0
        if bitstream.partial is not None:
            parts[bitstream.partial.state] = bitstream.partial.payload
            passes = bitstream.partial.passes
        shorter = self._compose(
            bitstream.width,
            bitstream.height,
            lambda state: _read_bits(BitDecoder(parts[state])),
            bitstream.state,
            passes,
            max_bytes,
        )
        if shorter.layers != bitstream.layers[: len(shorter.layers)]:
            raise BitstreamError("bad_payload", "no encoder writes such layers")
        return shorter

    # -- from bits -------------------------------------------------------------------------------

    def decode(self, bitstream: Bitstream) -> Latents:
        """See :meth:`shared.codec.base.Codec.decode`."""
        contexts = self._read(bitstream)
        names = [plane.name for plane in self.palette.planes]
        indices = {name: contexts.indices(name) for name in names}
        depths: Depths = {name: contexts.depths(name) for name in names}
        return Latents(
            self.palette.decode_mixed(indices, depths),
            indices,
            bitstream.state,
            bitstream.width,
            bitstream.height,
            depths,
            self._progress(bitstream, contexts),
        )

    def decode_indices(self, bitstream: Bitstream) -> Indices:
        """Indices at the bitstream's state, finer where a partial layer refines it.

        Returns int32 [h, w] a plane. Raises BitstreamError: ``wrong_bundle``, ``bad_state``,
        ``bad_passes``, ``limit_exceeded``, ``bad_payload``.
        """
        contexts = self._read(bitstream)
        return {plane.name: contexts.indices(plane.name) for plane in self.palette.planes}

    def _read(self, bitstream: Bitstream) -> PictureContexts:
        self._check(bitstream)
        contexts = self._contexts.open(self._grids(bitstream.width, bitstream.height))
        for layer in bitstream.layers:
            self._read_layer(contexts, layer.state, layer.payload, None)
        if (partial := bitstream.partial) is not None:
            self._read_layer(contexts, partial.state, partial.payload, partial.passes)
        return contexts

    def _read_layer(
        self, contexts: PictureContexts, state: int, payload: bytes, passes: int | None
    ) -> None:
        try:
            decoder = BitDecoder(payload)
            for step in self.palette.passes(state)[:passes]:
                contexts.advance(*step, decoder.decode(contexts.probabilities(*step)))
            decoder.finish()
        except BitstreamError as error:
            raise BitstreamError(error.reason, f"layer of state {state}: {error.message}") from None

    # -- parts -----------------------------------------------------------------------------------

    def _compose(
        self,
        width: int,
        height: int,
        source: Callable[[int], BitSource],
        state: int,
        passes: int,
        max_bytes: int | None,
    ) -> Bitstream:
        """Code layers down to ``state`` and ``passes`` of the next while they fit."""
        contexts = self._contexts.open(self._grids(width, height))
        coarsest = self.palette.coarsest_state
        layers = [_whole(self._code_layer(contexts, coarsest, source(coarsest)))]
        total = HEADER_BYTES + layer_bytes(len(layers[0].payload))
        if max_bytes is not None and total > max_bytes:
            raise BudgetError(
                "budget_too_small",
                f"the budget is {max_bytes} bytes, but state {coarsest}, the coarsest, takes "
                f"{total}",
                budget_bytes=max_bytes,
                needed_bytes=total,
            )
        partial: PartialLayer | None = None
        for here in range(coarsest - 1, state - 1 - bool(passes), -1):
            coded = self._code_layer(
                contexts,
                here,
                source(here),
                passes=passes if here < state else None,
                room=None if max_bytes is None else max_bytes - total,
            )
            if not isinstance(coded, Layer):
                partial = coded
                break
            layers.append(coded)
            total += layer_bytes(len(coded.payload))
        return Bitstream(
            self._bundle.short_id, width, height, layers[-1].state, tuple(layers), partial
        )

    def _code_layer(
        self,
        contexts: PictureContexts,
        state: int,
        bits_of: BitSource,
        *,
        passes: int | None = None,
        room: int | None = None,
    ) -> Layer | PartialLayer | None:
        """The layer; or its first ``passes``; or those that fit into ``room`` bytes, if any do.

        After fewer than all passes ``contexts`` are spent.
        """
        steps = self.palette.passes(state)
        encoder = BitEncoder()
        fitting: PartialLayer | None = None
        for number, step in enumerate(steps, 1):
            odds = contexts.probabilities(*step)
            bits = bits_of(step, contexts.positions(step.plane, step.side), odds)
            contexts.advance(*step, bits)
            encoder.encode(bits, odds)
            if number == len(steps) or (room is None and number != passes):
                continue
            payload = encoder.payload()
            # A message only grows: once even the shortest framing is too long, so is all to come.
            if room is not None and layer_bytes(len(payload)) > room:
                return fitting
            if room is None or partial_layer_bytes(number, len(payload)) <= room:
                fitting = PartialLayer(state, number, payload)
            if number == passes:
                return fitting
        payload = encoder.payload()
        if room is not None and layer_bytes(len(payload)) > room:
            return fitting
        return Layer(state, payload)

    def _known_bits(self, leaves: Indices) -> BitSource:
        flat = {name: grid.reshape(-1) for name, grid in leaves.items()}

        def bits_of(
            step: Pass, positions: npt.NDArray[np.int64], odds: npt.NDArray[np.uint16]
        ) -> Bits:
            below = self.palette.trees[step.plane].depth - step.depth - 1
            return ((flat[step.plane][positions] >> below) & 1).astype(np.uint8)

        return bits_of

    def _check_features(self, features: Features) -> None:
        for name, channels in self._channels.items():
            if name not in features or features[name].ndim != 3:
                raise ValueError(f"features of scale {name!r} are missing or not [C, h, w]")
            if features[name].shape[0] != channels or not np.isfinite(features[name]).all():
                raise ValueError(f"features of scale {name!r} must be {channels} finite channels")

    def _check_extent(self, shapes: Mapping[str, tuple[int, ...]], width: int, height: int) -> None:
        if shapes != self._grids(width, height):
            raise ValueError(f"these are not the grids of a picture of {width}x{height} pixels")

    def _shapes(self, features: Features) -> dict[str, tuple[int, ...]]:
        return {p.name: features[p.scale].shape[1:] for p in self.palette.planes}

    def _reaching(
        self,
        features: Features,
        indices: Indices,
        target: RateTarget,
        detail: Sequence[float] | None,
    ) -> tuple[int, int]:
        """The coarsest state, and passes after it, from which ``target.psnr_db`` is expected."""
        model, wanted = self._bundle.manifest.psnr_model, target.psnr_db
        assert model is not None
        assert wanted is not None
        if detail is None:
            raise ValueError("a PSNR target needs the photo's detail")
        expected = -math.inf
        table = DistortionTable(self.palette, features, indices)
        for state, passes, expected in model.path(table, detail):
            if expected >= wanted:
                return state, passes
        if target.best_effort:
            return self.palette.finest_state, 0
        raise BudgetError(
            "target_unreachable",
            f"{wanted:g} dB are wanted, but only {expected:.2f} are expected of the finest state",
            wanted_db=wanted,
            expected_db=round(expected, 2),
        )

    def _progress(self, bitstream: Bitstream, contexts: PictureContexts) -> float:
        """The share of the next layer's splits that a partial layer brings."""
        if bitstream.partial is None:
            return 0.0
        splits = [
            len(contexts.positions(step.plane, step.side))
            for step in self.palette.passes(bitstream.partial.state)
        ]
        return sum(splits[: bitstream.partial.passes]) / max(1, sum(splits))

    def _state(self, target: RateTarget) -> int:
        return self.palette.finest_state if target.state is None else target.state

    def _grids(self, width: int, height: int) -> dict[str, tuple[int, int]]:
        """Rows and columns of positions of every plane of a picture of that size."""
        rows, columns = self._bundle.manifest.grid_pixels(width, height)
        return {
            plane.name: (
                rows // self._strides[plane.scale],
                columns // self._strides[plane.scale],
            )
            for plane in self.palette.planes
        }

    def _check(self, bitstream: Bitstream) -> None:
        grids = self._grids(bitstream.width, bitstream.height)
        for layer in bitstream.layers:
            self._check_payload(layer, self.palette.passes(layer.state), grids)
        if (partial := bitstream.partial) is not None:
            steps = self.palette.passes(partial.state)
            if partial.passes >= len(steps):
                raise BitstreamError(
                    "bad_passes",
                    f"{partial.passes} passes of state {partial.state}; its layer has "
                    f"{len(steps)}, and one with all of them is no partial layer",
                )
            self._check_payload(partial, steps[: partial.passes], grids)

    def _check_payload(
        self,
        layer: Layer | PartialLayer,
        steps: tuple[Pass, ...],
        grids: dict[str, tuple[int, int]],
    ) -> None:
        # A pass takes every other position, rounded up.
        splits = sum((grids[step.plane][0] * grids[step.plane][1] + 1) // 2 for step in steps)
        if len(layer.payload) > splits * _WORST_BITS_PER_SPLIT // 8 + _MESSAGE_SLACK_BYTES:
            raise BitstreamError(
                "limit_exceeded",
                f"layer of state {layer.state}: {len(layer.payload)} bytes are more than "
                f"{splits} splits can take",
            )


def _whole(coded: Layer | PartialLayer | None) -> Layer:
    assert isinstance(coded, Layer), "without a limit a layer is coded whole"
    return coded


def _read_bits(decoder: BitDecoder) -> BitSource:
    def bits_of(step: Pass, positions: npt.NDArray[np.int64], odds: npt.NDArray[np.uint16]) -> Bits:
        return decoder.decode(odds)

    return bits_of

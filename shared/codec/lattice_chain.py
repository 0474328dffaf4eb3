"""One chain of states over a lattice: whole steps of channels, group by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.codec.base import Latents
from shared.codec.chain import ChainCodec
from shared.codec.palette_chain import shapes_of
from shared.codec.rate import FINEST, RateTarget
from shared.entropy import SymbolDecoder, SymbolEncoder
from shared.lattice import LatticeContexts, LatticePalette, LatticePass, PictureLattice, Values
from shared.palette.chain import Features

_WORST_BITS_PER_VALUE = 24


class LatticeChain(ChainCodec[LatticePass, PictureLattice]):
    """Encodes features to the layers of one operating point and decodes them."""

    def __init__(self, bundle: Bundle, palette: LatticePalette, contexts: LatticeContexts) -> None:
        """palette, contexts: of this chain; bundle: which it is of."""
        super().__init__(bundle)
        self.palette, self._contexts = palette, contexts

    @property
    def states(self) -> range:
        """The chain's states, finest first."""
        return range(self.palette.finest_state, self.palette.coarsest_state + 1)

    def passes(self, state: int) -> Sequence[LatticePass]:
        """What leads from state ``state + 1`` to ``state``, in the stream's order."""
        return self.palette.passes(state)

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
        """See :meth:`shared.codec.base.Codec.encode`. Values are the nearest whole steps, whatever
        ``rate_weight`` is."""
        self._check_features(features)
        self._check_extent(shapes_of(features), width, height)
        values = self.palette.quantise(features)
        state = self.states[0] if target.state is None else target.state
        return self.code(values, width, height, state, target.budget_bytes(width, height))

    def code(
        self, values: Values, width: int, height: int, state: int, max_bytes: int | None = None
    ) -> Bitstream:
        """The bitstream of whole steps at ``state``; less where ``max_bytes`` is not enough."""

        def symbols(
            state: int, contexts: PictureLattice, step: LatticePass, tables: npt.NDArray[np.intp]
        ) -> npt.NDArray[np.int32]:
            return contexts.symbols(step, values)

        return self._compose(width, height, symbols, state, 0, max_bytes)

    def decode(self, bitstream: Bitstream) -> Latents:
        """See :meth:`shared.codec.base.Codec.decode`. There are no indices: values are whole steps
        and not nodes of a tree."""
        contexts = self._read(bitstream)
        progress = 0.0
        if (partial := bitstream.partial) is not None:
            sizes = [self._values(contexts, step) for step in self.passes(partial.state)]
            progress = sum(sizes[: partial.passes]) / max(1, sum(sizes))
        return Latents(
            self.palette.decode(contexts.values(), contexts.known()),
            {},
            bitstream.state,
            bitstream.width,
            bitstream.height,
            {},
            progress,
        )

    def decode_values(self, bitstream: Bitstream) -> Values:
        """Whole steps of all planes, 0 where nothing is told: int32 [C, h, w] a plane.

        Raises as :meth:`decode` does.
        """
        return self._read(bitstream).values()

    # -- parts -----------------------------------------------------------------------------------

    def _open(self, width: int, height: int) -> PictureLattice:
        grids = self._grids(width, height)
        return self._contexts.open({spec.name: grids[spec.scale] for spec in self.palette.specs})

    def _models(self, contexts: PictureLattice, step: LatticePass) -> npt.NDArray[np.intp]:
        return contexts.tables(step)

    def _advance(self, contexts: PictureLattice, step: LatticePass, symbols: Any) -> None:
        contexts.advance(step, symbols)

    def _encoder(self) -> SymbolEncoder:
        return SymbolEncoder(self._contexts.tables)

    def _decoder(self, payload: bytes) -> SymbolDecoder:
        return SymbolDecoder(payload, self._contexts.tables)

    def _most_bits(self, step: LatticePass, width: int, height: int) -> int:
        spec = self.palette.planes[step.plane].spec
        rows, columns = self._grids(width, height)[spec.scale]
        return _WORST_BITS_PER_VALUE * rows * columns * spec.channels

    def _values(self, contexts: PictureLattice, step: LatticePass) -> int:
        return len(contexts.positions(step)) * self.palette.planes[step.plane].spec.channels

"""The lattice's coder: whole steps of channels, group by group, in chains of states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.base import FloatArray
from codec.chains import ChainsCodec
from codec.entropy import SymbolReader, SymbolWriter, symbol_decoder, symbol_encoder
from codec.latents import FeatureLatents, Features
from codec.lattice_palette.contexts import LatticeContexts, PictureLattice
from codec.lattice_palette.nested.coding import NestedChain
from codec.lattice_palette.nested.contexts import NestedContexts
from codec.lattice_palette.nested.palette import NestedPalette, is_nested
from codec.lattice_palette.palette import LatticePalette, LatticePass, Values
from codec.lattice_palette.planes import channels
from codec.layered import ChainCodec, shapes_of
from codec.settings import CONTEXTS_FILE, PALETTE_FILE, FeatureSettings
from shared.bitstream import FORMAT_VERSION, Bitstream
from shared.bundle import Bundle
from shared.targets import FINEST, RateTarget, Regions

Depths = Mapping[str, npt.NDArray[np.uint8]]
Tables = npt.NDArray[np.intp]
SymbolSource = Callable[[int, PictureLattice, LatticePass, Tables], npt.NDArray[np.int32]]

_WORST_BITS_PER_VALUE = 24


class LatticeChain(ChainCodec[LatticePass, PictureLattice]):
    """Encodes features to the layers of one operating point and decodes them."""

    def __init__(
        self,
        bundle: Bundle,
        settings: FeatureSettings,
        palette: LatticePalette,
        contexts: LatticeContexts,
    ) -> None:
        """palette, contexts: of this chain; bundle: which it is of."""
        super().__init__(bundle, settings, palette)
        self.palette, self._contexts = palette, contexts

    def encode(
        self,
        features: Features,
        width: int,
        height: int,
        target: RateTarget = FINEST,
        *,
        rate_weight: float | None = None,
        detail: Sequence[float] | None = None,
        regions: Regions = (),
        reference: FeatureLatents | None = None,
        distance: int = 1,
        version: int = FORMAT_VERSION,
        grey: bool = False,
    ) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.encode`.

        Values are the nearest whole steps; or, with a ``rate_weight`` above 0, of the two nearest
        ones that of least squared error + weight x bits (Chou, Lookabaugh and Gray 1989), decided
        in the stream's order.
        """
        self._check_features(features)
        self._check_extent(shapes_of(features), width, height)
        state = self.states[0] if target.state is None else target.state
        budget = target.budget_bytes(width, height)
        if rate_weight:
            source = self._decided(features, rate_weight)
        else:
            source = self._known(self.palette.quantise(features))
        return self._compose(width, height, source, state, 0, budget, version, grey=grey)

    # -- parts -----------------------------------------------------------------------------------

    def _known(self, values: Mapping[str, npt.NDArray[np.int32]]) -> SymbolSource:
        def symbols(
            state: int, contexts: PictureLattice, step: LatticePass, tables: Tables
        ) -> npt.NDArray[np.int32]:
            return contexts.symbols(step, contexts.of_pass(step, values[step.plane]))

        return symbols

    def _decided(self, features: Features, rate_weight: float) -> SymbolSource:
        def symbols(
            state: int, contexts: PictureLattice, step: LatticePass, tables: Tables
        ) -> npt.NDArray[np.int32]:
            plane = self.palette.planes[step.plane]
            exact = features[plane.spec.scale][channels(plane.spec)] / np.float32(plane.step)
            here = contexts.of_pass(step, exact)
            limits = plane.limits.astype(np.float32)
            low = np.floor(here).clip(-limits, limits)
            high = np.ceil(here).clip(-limits, limits)
            coded = [contexts.symbols(step, value.astype(np.int32)) for value in (low, high)]
            weight = rate_weight / plane.step**2
            costs = [
                np.square(here - value).reshape(-1) + weight * self._contexts.bits(symbol, tables)
                for value, symbol in zip((low, high), coded, strict=True)
            ]
            return np.where(costs[1] < costs[0], coded[1], coded[0])

        return symbols

    def _found(self, contexts: PictureLattice) -> tuple[Values, Depths]:
        """Indices are whole steps, depths 1 or 0."""
        known = contexts.known()
        return contexts.values(), {name: where.astype(np.uint8) for name, where in known.items()}

    def _colours(
        self, indices: Mapping[str, npt.NDArray[np.int32]], depths: Depths
    ) -> dict[str, FloatArray]:
        return self.palette.decode(indices, {name: grid > 0 for name, grid in depths.items()})

    def _coarser(
        self,
        plane: str,
        indices: npt.NDArray[np.int32],
        depths: npt.NDArray[np.uint8],
        wanted: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.int32]:
        return np.where(wanted > 0, indices, 0)

    def _given(self, latents: FeatureLatents) -> tuple[SymbolSource, None]:
        return self._known(latents.indices), None

    def _told(self, contexts: PictureLattice, step: LatticePass, latents: FeatureLatents) -> bool:
        depths = latents.depths[step.plane].reshape(-1)
        return bool((depths[contexts.positions(step)] > 0).all())

    def _open(
        self, width: int, height: int, reference: FeatureLatents | None = None
    ) -> PictureLattice:
        grids = self._grids(width, height)
        return self._contexts.open({spec.name: grids[spec.scale] for spec in self.palette.specs})

    def _run(
        self,
        contexts: PictureLattice,
        state: int,
        step: LatticePass,
        exchange: Callable[[Tables], npt.NDArray[np.int32]],
    ) -> None:
        contexts.advance(step, exchange(contexts.tables(step)))

    def _encoder(self, version: int) -> SymbolWriter:
        return symbol_encoder(version, self._contexts.tables)

    def _decoder(self, version: int, payload: bytes) -> SymbolReader:
        return symbol_decoder(version, payload, self._contexts.tables)

    def _most_bits(self, step: LatticePass, width: int, height: int) -> int:
        spec = self.palette.planes[step.plane].spec
        rows, columns = self._grids(width, height)[spec.scale]
        return _WORST_BITS_PER_VALUE * rows * columns * spec.channels

    def _symbols(self, contexts: PictureLattice, step: LatticePass) -> int:
        return len(contexts.positions(step)) * self.palette.planes[step.plane].spec.channels


class LatticeCodec(ChainsCodec[ChainCodec[Any, Any]]):
    """A bundle's chains of lattices, of one step each or nested."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError when palettes or contexts are damaged or do not fit the manifest."""
        arrays, contexts = bundle.read_arrays(PALETTE_FILE), bundle.read_arrays(CONTEXTS_FILE)
        settings = FeatureSettings.of(bundle)
        chains: list[ChainCodec[Any, Any]] = []
        for planes, states in settings.chain_parts:
            if is_nested(planes, arrays):
                nested = NestedPalette.from_arrays(planes, states, arrays)
                there = NestedContexts.from_arrays(nested, contexts)
                chains.append(NestedChain(bundle, settings, nested, there))
                continue
            palette = LatticePalette.from_arrays(planes, states, arrays)
            chains.append(
                LatticeChain(
                    bundle, settings, palette, LatticeContexts.from_arrays(palette, contexts)
                )
            )
        super().__init__(bundle, settings, chains)

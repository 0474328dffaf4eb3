"""The Markov palette codec: trees of colours that merge in pairs, in chains of states."""

from __future__ import annotations

from collections.abc import Iterator

from codec.chains import ChainsCodec
from codec.features import Features
from codec.markov_palette.coding import PaletteChain
from codec.markov_palette.contexts import ContextModel
from codec.markov_palette.palette import Indices, MarkovPalette
from codec.settings import CONTEXTS_FILE, PALETTE_FILE, FeatureSettings
from shared.bitstream import Bitstream, Layer
from shared.bundle import Bundle


class MarkovPaletteCodec(ChainsCodec[PaletteChain]):
    """A bundle's chains of palette trees."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError when palettes or contexts are damaged or do not fit the manifest."""
        arrays, contexts = bundle.read_arrays(PALETTE_FILE), bundle.read_arrays(CONTEXTS_FILE)
        settings = FeatureSettings.of(bundle)
        chains = []
        for planes, states in settings.chain_parts:
            palette = MarkovPalette.from_arrays(planes, states, arrays)
            model = ContextModel.from_arrays(planes, palette, contexts)
            chains.append(PaletteChain(bundle, settings, palette, model))
        super().__init__(bundle, settings, chains)

    def check_regions(self) -> None:
        """See :meth:`codec.base.EdgeCodec.check_regions`."""
        if self.settings.resize is not None:
            super().check_regions()

    @property
    def palette(self) -> MarkovPalette:
        """The finest chain's."""
        return self.chains[0].palette

    def layers(self, features: Features) -> Iterator[Layer]:
        """The finest chain's layers, from its coarsest state, each made when it is asked for."""
        return self.chains[0].layers(features)

    def quantise(self, features: Features, rate_weight: float | None = None) -> Indices:
        """The finest chain's indices; see :meth:`PaletteChain.quantise`."""
        return self.chains[0].quantise(features, rate_weight)

    def encode_indices(self, indices: Indices, *, finest: int | None = None) -> Iterator[Layer]:
        """The finest chain's layers; see :meth:`PaletteChain.encode_indices`."""
        return self.chains[0].encode_indices(indices, finest=finest)

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
        """The finest chain's bitstream; see :meth:`PaletteChain.code`."""
        return self.chains[0].code(
            indices, width, height, state=state, passes=passes, max_bytes=max_bytes
        )

    def decode_indices(self, bitstream: Bitstream) -> Indices:
        """Indices at the bitstream's state, finer where a partial layer refines it.

        Returns int32 [h, w] a plane. Raises BitstreamError: ``wrong_bundle``, ``bad_state``,
        ``bad_passes``, ``limit_exceeded``, ``bad_payload``.
        """
        return self._chain_of(bitstream).decode_indices(bitstream)

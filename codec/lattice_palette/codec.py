"""The lattice codec: channels rounded to whole steps, in chains of states."""

from __future__ import annotations

from codec.chains import ChainsCodec
from codec.lattice_palette.coding import LatticeChain
from codec.lattice_palette.contexts import LatticeContexts
from codec.lattice_palette.palette import LatticePalette, Values
from codec.settings import CONTEXTS_FILE, PALETTE_FILE, FeatureSettings
from shared.bitstream import Bitstream
from shared.bundle import Bundle


class LatticeCodec(ChainsCodec[LatticeChain]):
    """A bundle's chains of lattices."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError when palettes or contexts are damaged or do not fit the manifest."""
        arrays, contexts = bundle.read_arrays(PALETTE_FILE), bundle.read_arrays(CONTEXTS_FILE)
        settings = FeatureSettings.of(bundle)
        chains = []
        for planes, states in settings.chain_parts:
            palette = LatticePalette.from_arrays(planes, states, arrays)
            chains.append(
                LatticeChain(
                    bundle, settings, palette, LatticeContexts.from_arrays(palette, contexts)
                )
            )
        super().__init__(bundle, settings, chains)

    def decode_values(self, bitstream: Bitstream) -> Values:
        """Whole steps of the chain's planes; see :meth:`LatticeChain.decode_values`."""
        return self._chain_of(bitstream).decode_values(bitstream)

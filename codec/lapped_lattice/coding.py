"""The coder of lapped coefficients: one chain of lattices with dead zones."""

from __future__ import annotations

from codec.chains import ChainsCodec
from codec.lapped_lattice.contexts import LappedContexts
from codec.lapped_lattice.lattice import LappedPalette
from codec.lattice_palette.nested.coding import NestedChain
from codec.settings import CONTEXTS_FILE, PALETTE_FILE, FeatureSettings
from shared.bundle import Bundle


class LappedCodec(ChainsCodec[NestedChain]):
    """A bundle's one chain."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError when palette or contexts are damaged or do not fit the manifest."""
        arrays, contexts = bundle.read_arrays(PALETTE_FILE), bundle.read_arrays(CONTEXTS_FILE)
        settings = FeatureSettings.of(bundle)
        palette = LappedPalette.from_arrays(settings.planes, settings.states, arrays)
        there = LappedContexts.from_arrays(palette, contexts)
        super().__init__(bundle, settings, [NestedChain(bundle, settings, palette, there)])

    def check_regions(self) -> None:
        """See :meth:`codec.base.EdgeCodec.check_regions`: whole positions are coarser or finer."""

"""The Markov palette codec: a bundle's chains of states, and which of them a picture takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shared.bitstream import Bitstream, Layer
from shared.bundle import Bundle
from shared.codec.base import Latents
from shared.codec.chain import ChainCodec
from shared.codec.rate import FINEST, RateTarget
from shared.codec.registry import register_codec
from shared.entropy import ContextModel
from shared.errors import BitstreamError, BudgetError, BundleError
from shared.palette import MarkovPalette
from shared.palette.chain import Features, Indices

PALETTE_FILE = "palette.npz"
CONTEXTS_FILE = "contexts.npz"


@register_codec("markov-palette")
class MarkovPaletteCodec:
    """Encodes features to layers and decodes layers to colours; see the design of the codec.

    A bundle's chains are its operating points: a bitstream is of one of them, and says of which
    by the state that it begins with.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError when palettes or contexts are damaged or do not fit the manifest."""
        arrays, contexts = bundle.read_arrays(PALETTE_FILE), bundle.read_arrays(CONTEXTS_FILE)
        self._bundle = bundle
        self.chains: list[ChainCodec] = []
        first = 0
        for planes, states in bundle.manifest.chain_parts:
            palette = MarkovPalette.from_arrays(planes, states, arrays)
            if palette.finest_state != first:
                raise BundleError(
                    "bad_states", f"state {palette.finest_state} comes after {first - 1}"
                )
            first = palette.coarsest_state + 1
            model = ContextModel.from_arrays(planes, palette, contexts)
            self.chains.append(ChainCodec(bundle, palette, model))

    @property
    def palette(self) -> MarkovPalette:
        """The finest chain's."""
        return self.chains[0].palette

    # -- to bits ---------------------------------------------------------------------------------

    def check(self, target: RateTarget) -> None:
        """See :meth:`shared.codec.base.Codec.check`."""
        coarsest = self.chains[-1].palette.coarsest_state
        if target.state is not None and target.state > coarsest:
            raise BudgetError(
                "unknown_state", f"there is no state {target.state}; there are 0 to {coarsest}"
            )
        if target.psnr_db is not None and self._bundle.manifest.psnr_model is None:
            raise BundleError(
                "no_psnr_model",
                f"bundle {self._bundle.manifest.name} does not say what PSNR to expect of it; give "
                "a state, bits per pixel or bytes",
            )

    def layers(self, features: Features) -> Iterator[Layer]:
        """See :meth:`shared.codec.base.Codec.layers`."""
        return self.chains[0].layers(features)

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
        """See :meth:`shared.codec.base.Codec.encode`.

        A budget is met by the finest chain that fits into it with its coarsest state at least.
        """
        self.check(target)
        last = self.chains[-1]
        for chain in self.chains:
            if target.state is not None and target.state > chain.palette.coarsest_state:
                continue
            try:
                return chain.encode(
                    features, width, height, target, rate_weight=rate_weight, detail=detail
                )
            except BudgetError as error:
                if error.reason != "budget_too_small" or chain is last:
                    raise
        raise AssertionError("unreachable: the target's state was checked")

    def quantise(self, features: Features, rate_weight: float | None = None) -> Indices:
        """The finest chain's indices; see :meth:`ChainCodec.quantise`."""
        return self.chains[0].quantise(features, rate_weight)

    def encode_indices(self, indices: Indices, *, finest: int | None = None) -> Iterator[Layer]:
        """The finest chain's layers; see :meth:`ChainCodec.encode_indices`."""
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
        """The finest chain's bitstream; see :meth:`ChainCodec.code`."""
        return self.chains[0].code(
            indices, width, height, state=state, passes=passes, max_bytes=max_bytes
        )

    def shorten(self, bitstream: Bitstream, max_bytes: int) -> Bitstream:
        """See :meth:`shared.codec.base.Codec.shorten`. It stays in its chain."""
        return self._chain_of(bitstream).shorten(bitstream, max_bytes)

    # -- from bits -------------------------------------------------------------------------------

    def decode(self, bitstream: Bitstream) -> Latents:
        """See :meth:`shared.codec.base.Codec.decode`."""
        return self._chain_of(bitstream).decode(bitstream)

    def decode_indices(self, bitstream: Bitstream) -> Indices:
        """Indices at the bitstream's state, finer where a partial layer refines it.

        Returns int32 [h, w] a plane. Raises BitstreamError: ``wrong_bundle``, ``bad_state``,
        ``bad_passes``, ``limit_exceeded``, ``bad_payload``.
        """
        return self._chain_of(bitstream).decode_indices(bitstream)

    def _chain_of(self, bitstream: Bitstream) -> ChainCodec:
        bitstream.check()
        if bitstream.bundle_id != self._bundle.short_id:
            raise BitstreamError(
                "wrong_bundle",
                f"made with bundle {bitstream.bundle_id.hex()}, but this is "
                f"{self._bundle.manifest.name} {self._bundle.short_id.hex()}; open it with the "
                "bundle it was made with (--bundle FOLDER or ZIP, from the release that wrote it), "
                "or encode the photo again with this one",
                wanted=bitstream.bundle_id.hex(),
                have=self._bundle.short_id.hex(),
            )
        begins = bitstream.layers[0].state
        for chain in self.chains:
            finest = chain.palette.finest_state
            if begins == chain.palette.coarsest_state and bitstream.state >= finest:
                if bitstream.partial is not None and bitstream.partial.state < finest:
                    break
                return chain
        starts = " or ".join(str(chain.palette.coarsest_state) for chain in self.chains)
        raise BitstreamError(
            "bad_state",
            f"begins at state {begins} and ends at {bitstream.state}; this bundle's begin at "
            f"{starts}",
        )

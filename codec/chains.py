"""A bundle's chains of states: its operating points, behind one face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from codec.latents import FeatureLatents, Features, PackedLatents
from codec.layered import ChainCodec
from codec.settings import FeatureSettings
from codec.standalone import check_bundle, check_target, no_regions
from shared.bitstream import FORMAT_VERSION, Bitstream, format3
from shared.bundle import Bundle
from shared.errors import BitstreamError, BudgetError, BundleError
from shared.targets import FINEST, RateTarget, Regions, check_regions

Chain = TypeVar("Chain", bound=ChainCodec[Any, Any])


class ChainsCodec(Generic[Chain]):
    """Encodes features to layers and decodes layers to colours; see the design of the codec.

    A bundle's chains are its operating points: a bitstream is of one of them, known
    by the state that it begins with.
    """

    def __init__(self, bundle: Bundle, settings: FeatureSettings, chains: Sequence[Chain]) -> None:
        """chains: finest first. Raises BundleError when their states do not follow each other."""
        self._bundle, self.settings, self.chains = bundle, settings, list(chains)
        first = 0
        for chain in chains:
            if chain.states[0] != first:
                raise BundleError("bad_states", f"state {chain.states[0]} comes after {first - 1}")
            first = chain.states[-1] + 1

    def passes(self, state: int) -> int:
        """See :meth:`codec.base.EdgeCodec.passes`."""
        chain = next(chain for chain in self.chains if state in chain.states)
        return len(chain.passes(state))

    # -- to bits ---------------------------------------------------------------------------------

    def check(self, target: RateTarget) -> None:
        """See :meth:`codec.base.EdgeCodec.check`."""
        check_target(target, self._bundle, psnr=self.settings.psnr_model is not None)

    def check_regions(self) -> None:
        """See :meth:`codec.base.EdgeCodec.check_regions`."""
        raise no_regions(
            self._bundle,
            "its states leave out channels of the whole picture, not of parts of it",
        )

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

        A budget is met by the finest chain that fits into it with its coarsest state at least.
        """
        if version == format3.VERSION:
            reference = None
        self.check(target)
        if check_regions(regions, target, rate_weight):
            self.check_regions()
        last = self.chains[-1]
        for chain in self.chains:
            if target.state is not None and target.state > chain.states[-1]:
                continue
            try:
                return chain.encode(
                    features,
                    width,
                    height,
                    target,
                    rate_weight=rate_weight,
                    detail=detail,
                    regions=regions,
                    reference=reference
                    if reference is not None and chain.fits(reference, width, height)
                    else None,
                    distance=distance,
                    version=version,
                    grey=grey,
                )
            except BudgetError as error:
                if error.reason != "budget_too_small" or chain is last:
                    raise
        raise AssertionError("unreachable: the target's state was checked")

    def shorten(
        self, bitstream: Bitstream, max_bytes: int, reference: FeatureLatents | None = None
    ) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.shorten`. It stays in its chain."""
        return self._chain_of(bitstream).shorten(bitstream, max_bytes, reference)

    def recode(self, bitstream: Bitstream, version: int) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.recode`."""
        return self._chain_of(bitstream).recode(bitstream, version)

    # -- from bits -------------------------------------------------------------------------------

    def decode(
        self, bitstream: Bitstream, reference: FeatureLatents | None = None
    ) -> FeatureLatents:
        """See :meth:`codec.base.Half.decode`."""
        return self._chain_of(bitstream).decode(bitstream, reference)

    # -- references ------------------------------------------------------------------------------

    @property
    def predicts(self) -> bool:
        """See :attr:`codec.base.Half.predicts`: all chains do, or none does."""
        return all(chain.predicts for chain in self.chains)

    def reference_checksum(self, latents: FeatureLatents) -> bytes:
        """See :meth:`codec.base.Half.reference_checksum`."""
        return self._chain_with(latents).reference_checksum(latents)

    def cut(self, latents: FeatureLatents, state: int) -> FeatureLatents:
        """See :meth:`codec.base.Half.cut`."""
        return self._chain_with(latents).cut(latents, state)

    def key_frame(self, latents: FeatureLatents, version: int) -> Bitstream:
        """See :meth:`codec.base.Half.key_frame`."""
        return self._chain_with(latents).key_frame(latents, version)

    def unpack(self, data: bytes) -> FeatureLatents:
        """See :meth:`codec.base.Half.unpack`."""
        packed = PackedLatents.from_bytes(data)
        for chain in self.chains:
            if packed.depths.keys() == packed.indices.keys() == chain.names:
                return chain.restored(packed)
        raise BitstreamError("bad_latents", "the planes are of no chain of this bundle")

    def _chain_with(self, latents: FeatureLatents) -> Chain:
        for chain in self.chains:
            if latents.planes == chain.names:
                return chain
        raise BitstreamError("bad_latents", "the planes are of no chain of this bundle")

    def _chain_of(self, bitstream: Bitstream) -> Chain:
        check_bundle(bitstream, self._bundle)
        begins = bitstream.layers[0].state
        for chain in self.chains:
            finest = chain.states[0]
            if begins == chain.states[-1] and bitstream.state >= finest:
                if bitstream.partial is not None and bitstream.partial.state < finest:
                    break
                return chain
        starts = " or ".join(str(chain.states[-1]) for chain in self.chains)
        raise BitstreamError(
            "bad_state",
            f"begins at state {begins} and ends at {bitstream.state}; this bundle's begin at "
            f"{starts}",
        )

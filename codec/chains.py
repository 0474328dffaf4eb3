"""A bundle's chains of states, and which of them a picture takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from codec.features import FeatureLatents, Features
from codec.layered import ChainCodec
from codec.settings import FeatureSettings
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import BitstreamError, BudgetError, BundleError
from shared.targets import FINEST, RateTarget, Regions, check_regions

Chain = TypeVar("Chain", bound=ChainCodec[Any, Any])


class ChainsCodec(Generic[Chain]):
    """Encodes features to layers and decodes layers to colours; see the design of the codec.

    A bundle's chains are its operating points: a bitstream is of one of them, and says of which
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
        coarsest = self.chains[-1].states[-1]
        if target.state is not None and target.state > coarsest:
            raise BudgetError(
                "unknown_state", f"there is no state {target.state}; there are 0 to {coarsest}"
            )
        if target.psnr_db is not None and self.settings.psnr_model is None:
            raise BundleError(
                "no_psnr_model",
                f"bundle {self._bundle.manifest.name} does not say what PSNR to expect of it; give "
                "a state, bits per pixel or bytes",
            )

    def check_regions(self) -> None:
        """See :meth:`codec.base.EdgeCodec.check_regions`."""
        raise BundleError(
            "regions_unsupported",
            f"bundle {self._bundle.manifest.name} knows no regions of interest: its states leave "
            "out channels of the whole picture, not of parts of it",
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
    ) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.encode`.

        A budget is met by the finest chain that fits into it with its coarsest state at least.
        """
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
                )
            except BudgetError as error:
                if error.reason != "budget_too_small" or chain is last:
                    raise
        raise AssertionError("unreachable: the target's state was checked")

    def shorten(self, bitstream: Bitstream, max_bytes: int) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.shorten`. It stays in its chain."""
        return self._chain_of(bitstream).shorten(bitstream, max_bytes)

    # -- from bits -------------------------------------------------------------------------------

    def decode(self, bitstream: Bitstream) -> FeatureLatents:
        """See :meth:`codec.base.EdgeCodec.decode`."""
        return self._chain_of(bitstream).decode(bitstream)

    def _chain_of(self, bitstream: Bitstream) -> Chain:
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

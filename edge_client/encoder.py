"""Photos to bitstreams at a rate chosen per picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec.base import EdgeOptions, PrecisionChoice, open_edge
from shared.bitstream import FORMAT_VERSION, Bitstream
from shared.bundle import Bundle
from shared.limits import DEFAULT_LIMITS, Limits
from shared.preprocess import from_array, load_photo
from shared.targets import RateTarget, Regions

Pixels = npt.NDArray[np.uint8]


class EdgeEncoder:
    """Encodes photos with one bundle. Not for use by two threads at once."""

    def __init__(
        self,
        bundle: Bundle | None = None,
        *,
        threads: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        rate_weight: float | None = None,
        precision: PrecisionChoice | None = None,
    ) -> None:
        """bundle: the default picture bundle when None. Raises BundleError when damaged.

        rate_weight: the squared error of a feature vector that one bit is worth (the lambda of
        entropy-constrained quantisation); 0 takes the nearest colours, None is what the bundle's
        palette was made for.
        precision: of the network, see :class:`codec.EdgeOptions`. Raises BudgetError ``bad_target``
        when the rate weight is negative or no finite number.
        """
        self.bundle = bundle if bundle is not None else Bundle.load()
        self._limits = limits
        self.codec = open_edge(self.bundle, EdgeOptions(threads, precision, rate_weight))
        self.codec.load()

    def encode(
        self,
        photo: str | Path | bytes | Pixels,
        *,
        state: int | None = None,
        bits_per_pixel: float | None = None,
        max_bytes: int | None = None,
        psnr_db: float | None = None,
        best_effort: bool = False,
        regions: Regions = (),
        version: int = FORMAT_VERSION,
    ) -> Bitstream:
        """Encode a photo (a path, a file's bytes, or uint8 [H, W, 3] RGB) at a rate.

        At most one target is given; none is the bundle's default state, the finest that is worth
        its bits, or the finest of all where the bundle names none. Bits and bytes are never
        exceeded: the finest whole layers that fit, then as many passes of the next one as fit. For
        ``psnr_db`` the file is the smallest whose reconstruction is expected to reach it, by the
        bundle's own model; see :class:`codec.settings.PsnrModel` for what share of photos does.

        ``regions`` are told to their own states where those are finer: the rest has the state that
        is asked for, or what the bits or bytes leave. They do not go with a PSNR target.

        ``version`` is of the file's format: 3 is for servers and tools of older releases.

        Raises PhotoError for what is no picture or has a refused size; BudgetError
        ``unknown_state``, ``budget_too_small``, or ``target_unreachable`` when even the finest
        state is not expected to reach ``psnr_db`` (with ``best_effort`` that state is returned);
        BundleError ``no_psnr_model``.
        """
        return self.encode_at(
            photo,
            RateTarget(state, bits_per_pixel, max_bytes, psnr_db, best_effort),
            regions,
            version=version,
        )

    def encode_at(
        self,
        photo: str | Path | bytes | Pixels,
        target: RateTarget,
        regions: Regions = (),
        *,
        version: int = FORMAT_VERSION,
    ) -> Bitstream:
        """:meth:`encode` for a target that is one already."""
        target = self.wanted(target)
        self.codec.check(target)
        return self.codec.encode(self._load(photo), target, regions=regions, version=version)

    def encode_kept(
        self,
        photo: str | Path | bytes | Pixels,
        target: RateTarget,
        *,
        version: int = FORMAT_VERSION,
    ) -> tuple[Bitstream, Bitstream]:
        """The photo at ``target``, and at the finest state that its layers can be continued to.

        That is the finest of the chain from which the first one is. The network runs once. Raises
        like :meth:`encode`.
        """
        target = self.wanted(target)
        self.codec.check(target)
        prepared = self.codec.prepare(self._load(photo))
        if target.state is not None:
            finest = self.codec.encode(prepared, self._finest(target.state), version=version)
            return finest.truncate(target.state), finest
        bitstream = self.codec.encode(prepared, target, version=version)
        finest_target = self._finest(bitstream.state)
        if bitstream.state == finest_target.state:
            return bitstream, bitstream
        return bitstream, self.codec.encode(prepared, finest_target, version=version)

    def wanted(self, target: RateTarget) -> RateTarget:
        """``target``; the bundle's default state where it asks for nothing."""
        state = self.bundle.advice.default_state
        return RateTarget(state=state) if target == RateTarget() and state is not None else target

    def _finest(self, state: int) -> RateTarget:
        return RateTarget(state=self.bundle.manifest.finest_of(state))

    def _load(self, photo: str | Path | bytes | Pixels) -> Pixels:
        if isinstance(photo, np.ndarray):
            return from_array(photo, limits=self._limits)
        return load_photo(photo, limits=self._limits)

    def check(self, target: RateTarget) -> None:
        """Raise BudgetError ``unknown_state``, or BundleError ``no_psnr_model``."""
        self.codec.check(target)

    def check_regions(self) -> None:
        """Raise BundleError ``regions_unsupported`` where the bundle knows no regions."""
        self.codec.check_regions()

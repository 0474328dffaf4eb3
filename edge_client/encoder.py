"""Photos to bitstreams at a rate chosen per picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec.onnx import FeatureExtractor
from codec.precision import PrecisionChoice
from codec.rate import RateTarget
from codec.regions import Regions
from codec.registry import open_codec
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import BudgetError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.preprocess import block_detail, from_array, load_photo

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
        precision: of the network, see :class:`FeatureExtractor`. Raises BudgetError ``bad_target``
        when the rate weight is negative or no finite number.
        """
        self.bundle = bundle if bundle is not None else Bundle.load()
        if rate_weight is not None and not 0 <= rate_weight < float("inf"):
            raise BudgetError(
                "bad_target",
                f"a rate weight must be a finite number, and not negative: {rate_weight}",
            )
        self._rate_weight = rate_weight
        self._limits = limits
        self._extractor = FeatureExtractor(self.bundle, threads=threads, precision=precision)
        self._codec = open_codec(self.bundle)

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
    ) -> Bitstream:
        """Encode a photo (a path, a file's bytes, or uint8 [H, W, 3] RGB) at a rate.

        At most one target is given. Bits and bytes are never exceeded: the finest whole layers
        that fit, then as many passes of the next one as fit. For ``psnr_db`` the file is the
        smallest whose reconstruction is expected to reach it, by the bundle's own model; see
        :class:`shared.bundle.PsnrModel` for what share of photos does.

        ``regions`` are told to their own states where those are finer: the rest has the state that
        is asked for, or what the bits or bytes leave. They do not go with a PSNR target.

        Raises PhotoError for what is no picture or has a refused size; BudgetError
        ``unknown_state``, ``budget_too_small``, or ``target_unreachable`` when even the finest
        state is not expected to reach ``psnr_db`` (with ``best_effort`` that state is returned);
        BundleError ``no_psnr_model``.
        """
        return self.encode_at(
            photo, RateTarget(state, bits_per_pixel, max_bytes, psnr_db, best_effort), regions
        )

    def encode_at(
        self, photo: str | Path | bytes | Pixels, target: RateTarget, regions: Regions = ()
    ) -> Bitstream:
        """:meth:`encode` for a target that is one already."""
        self.check(target)
        image = self._load(photo)
        return self._encode(image, self._extractor(image), target, regions)

    def encode_kept(
        self, photo: str | Path | bytes | Pixels, target: RateTarget
    ) -> tuple[Bitstream, Bitstream]:
        """The photo at ``target``, and at the finest state that its layers can be continued to.

        That is the finest of the chain from which the first one is. The network runs once. Raises
        like :meth:`encode`.
        """
        self.check(target)
        image = self._load(photo)
        features = self._extractor(image)
        if target.state is not None:
            finest = self._encode(image, features, self._finest(target.state))
            return finest.truncate(target.state), finest
        bitstream = self._encode(image, features, target)
        finest_target = self._finest(bitstream.state)
        if bitstream.state == finest_target.state:
            return bitstream, bitstream
        return bitstream, self._encode(image, features, finest_target)

    def _finest(self, state: int) -> RateTarget:
        return RateTarget(state=self.bundle.manifest.chain_of(state)[0].state)

    def _load(self, photo: str | Path | bytes | Pixels) -> Pixels:
        if isinstance(photo, np.ndarray):
            return from_array(photo, limits=self._limits)
        return load_photo(photo, limits=self._limits)

    def _encode(
        self,
        image: Pixels,
        features: Mapping[str, npt.NDArray[np.float32]],
        target: RateTarget,
        regions: Regions = (),
    ) -> Bitstream:
        height, width = image.shape[:2]
        return self._codec.encode(
            features,
            width,
            height,
            target,
            rate_weight=self._rate_weight,
            detail=None if target.psnr_db is None else block_detail(image),
            regions=regions,
        )

    def check(self, target: RateTarget) -> None:
        """Raise BudgetError ``unknown_state``, or BundleError ``no_psnr_model``."""
        self._codec.check(target)

    def check_regions(self) -> None:
        """Raise BundleError ``regions_unsupported`` where the bundle knows no regions."""
        self._codec.check_regions()

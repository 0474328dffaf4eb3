"""The two halves of codecs of a network's features.

photo --extractor.onnx--> features --coder--> layers --coder--> features --+--> tails
                                                                           +--> pictures
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from codec.base import EdgeOptions, Pixels, Reconstructor, Tail, no_picture, no_reference
from codec.layered import ChainsCodec, FeatureLatents, Features
from codec.onnx import FeatureExtractor
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import BudgetError
from shared.preprocess import block_detail
from shared.targets import FINEST, RateTarget, Regions


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPhoto:
    """A photo (uint8 [height, width, 3]) and its features."""

    photo: Pixels
    features: Features

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.photo.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.photo.shape[0])


class FeatureEdge:
    """An extractor and a coder of its features; see :class:`codec.base.EdgeCodec`."""

    def __init__(self, bundle: Bundle, coder: ChainsCodec[Any], options: EdgeOptions) -> None:
        """Raises BudgetError ``bad_target`` for a rate weight that is negative or not finite."""
        weight = options.rate_weight
        if weight is not None and not 0 <= weight < float("inf"):
            raise BudgetError(
                "bad_target", f"a rate weight must be a finite number, and not negative: {weight}"
            )
        self._bundle, self.coder, self._options = bundle, coder, options

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The network, opened when it is first asked for."""
        options = self._options
        return FeatureExtractor(self._bundle, threads=options.threads, precision=options.precision)

    def load(self) -> None:
        """See :meth:`codec.base.EdgeCodec.load`."""
        _ = self.extractor

    def prepare(self, photo: Pixels) -> PreparedPhoto:
        """Run the network. See :meth:`codec.base.EdgeCodec.prepare`."""
        return PreparedPhoto(photo, self.extractor(photo))

    def encode(
        self,
        photo: Pixels | PreparedPhoto,
        target: RateTarget = FINEST,
        *,
        regions: Regions = (),
        reference: FeatureLatents | None = None,
    ) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.encode`."""
        if reference is not None:
            raise no_reference(self._bundle)
        self.check(target)
        prepared = self.prepare(photo) if isinstance(photo, np.ndarray) else photo
        return self.coder.encode(
            prepared.features,
            prepared.width,
            prepared.height,
            target,
            rate_weight=self._options.rate_weight,
            detail=None if target.psnr_db is None else block_detail(prepared.photo),
            regions=regions,
        )

    def decode(
        self, bitstream: Bitstream, *, reference: FeatureLatents | None = None
    ) -> FeatureLatents:
        """See :meth:`codec.base.EdgeCodec.decode`."""
        if reference is not None:
            raise no_reference(self._bundle)
        return self.coder.decode(bitstream)

    def shorten(self, bitstream: Bitstream, target: RateTarget) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.shorten`. It stays in its chain of states."""
        if target.psnr_db is not None:
            raise BudgetError("no_photo", "a PSNR target needs the photo, not its features")
        if target.state is not None:
            return bitstream.truncate(target.state)
        budget = target.budget_bytes(bitstream.width, bitstream.height)
        return bitstream if budget is None else self.coder.shorten(bitstream, budget)

    def passes(self, state: int) -> int:
        """See :meth:`codec.base.EdgeCodec.passes`."""
        return self.coder.passes(state)

    def check(self, target: RateTarget) -> None:
        """See :meth:`codec.base.EdgeCodec.check`."""
        self.coder.check(target)

    def check_regions(self) -> None:
        """See :meth:`codec.base.EdgeCodec.check_regions`."""
        self.coder.check_regions()


class FeatureCloud:
    """A coder of features and tails that read them; see :class:`codec.base.CloudCodec`."""

    def __init__(self, bundle: Bundle, coder: ChainsCodec[Any]) -> None:
        """coder: of the bundle."""
        self._bundle, self.coder = bundle, coder

    def decode(
        self, bitstream: Bitstream, *, reference: FeatureLatents | None = None
    ) -> FeatureLatents:
        """See :meth:`codec.base.CloudCodec.decode`."""
        if reference is not None:
            raise no_reference(self._bundle)
        return self.coder.decode(bitstream)

    def open_reconstructor(self, *, device: str = "cpu") -> Reconstructor[FeatureLatents]:
        """Raises BundleError ``no_picture``: features alone make none."""
        raise no_picture(self._bundle)

    def open_tails(
        self, *, device: str = "cpu", threads: int = 1, score_threshold: float | None = None
    ) -> Mapping[str, Tail[FeatureLatents]]:
        """See :meth:`codec.base.CloudCodec.open_tails`."""
        from codec.tails import open_tails

        return open_tails(
            self._bundle, device=device, threads=threads, score_threshold=score_threshold
        )

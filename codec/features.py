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

from codec.base import EdgeOptions, Pixels, Tail
from codec.chains import ChainsCodec
from codec.latents import FeatureLatents, Features, PackedLatents
from codec.onnx import FeatureExtractor
from codec.standalone import StandaloneCloud, StandaloneEdge, StandaloneHalf, WithPhoto
from shared.bitstream import FORMAT_VERSION, Bitstream, format3
from shared.bundle import Bundle
from shared.errors import BudgetError
from shared.preprocess import block_detail, is_grey
from shared.targets import FINEST, RateTarget, Regions


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPhoto(WithPhoto):
    """A photo (uint8 [height, width, 3]) and its features."""

    features: Features


class FeatureHalf(StandaloneHalf[FeatureLatents]):
    """What both halves do with a coder of features."""

    coder: ChainsCodec[Any]

    @property
    def predicts(self) -> bool:
        """See :attr:`codec.base.Half.predicts`."""
        return self.coder.predicts

    def reference_checksum(self, latents: FeatureLatents) -> bytes:
        """See :meth:`codec.base.Half.reference_checksum`."""
        return self.coder.reference_checksum(latents)

    def cut(self, latents: FeatureLatents, state: int) -> FeatureLatents:
        """See :meth:`codec.base.Half.cut`."""
        return self.coder.cut(latents, state)

    def key_frame(self, latents: FeatureLatents, *, version: int = FORMAT_VERSION) -> Bitstream:
        """See :meth:`codec.base.Half.key_frame`."""
        return self.coder.key_frame(latents, version)

    def pack(self, latents: FeatureLatents) -> bytes:
        """See :meth:`codec.base.Half.pack`."""
        return PackedLatents.of(latents).to_bytes()

    def unpack(self, data: bytes) -> FeatureLatents:
        """See :meth:`codec.base.Half.unpack`."""
        return self.coder.unpack(data)

    def _decode(
        self, bitstream: Bitstream, reference: FeatureLatents | None = None
    ) -> FeatureLatents:
        return self.coder.decode(bitstream, reference)


class FeatureEdge(FeatureHalf, StandaloneEdge[FeatureLatents]):
    """An extractor and a coder of its features; see :class:`codec.base.EdgeCodec`."""

    def __init__(self, bundle: Bundle, coder: ChainsCodec[Any], options: EdgeOptions) -> None:
        """Raises BudgetError ``bad_target`` for a rate weight that is negative or not finite."""
        weight = options.rate_weight
        if weight is not None and not 0 <= weight < float("inf"):
            raise BudgetError(
                "bad_target", f"a rate weight must be a finite number, and not negative: {weight}"
            )
        super().__init__(bundle)
        self.coder, self._options = coder, options

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
        distance: int = 1,
        version: int = FORMAT_VERSION,
    ) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.encode`."""
        self._check_reference(reference)
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
            reference=reference,
            distance=distance,
            version=version,
            grey=version != format3.VERSION and is_grey(prepared.photo),
        )

    def passes(self, state: int) -> int:
        """See :meth:`codec.base.EdgeCodec.passes`."""
        return self.coder.passes(state)

    def check(self, target: RateTarget) -> None:
        """See :meth:`codec.base.EdgeCodec.check`."""
        self.coder.check(target)

    def check_regions(self) -> None:
        """See :meth:`codec.base.EdgeCodec.check_regions`."""
        self.coder.check_regions()

    def _shorten(
        self, bitstream: Bitstream, budget: int, reference: FeatureLatents | None = None
    ) -> Bitstream:
        return self.coder.shorten(bitstream, budget, reference)

    def _recode(self, bitstream: Bitstream, version: int) -> Bitstream:
        return self.coder.recode(bitstream, version)


class FeatureCloud(FeatureHalf, StandaloneCloud[FeatureLatents]):
    """A coder of features and tails that read them; see :class:`codec.base.CloudCodec`."""

    def __init__(self, bundle: Bundle, coder: ChainsCodec[Any]) -> None:
        """coder: of the bundle."""
        super().__init__(bundle)
        self.coder = coder

    def open_tails(
        self, *, device: str = "cpu", threads: int = 1, score_threshold: float | None = None
    ) -> Mapping[str, Tail[FeatureLatents]]:
        """See :meth:`codec.base.CloudCodec.open_tails`."""
        from codec.tails import open_tails

        return open_tails(
            self._bundle, device=device, threads=threads, score_threshold=score_threshold
        )

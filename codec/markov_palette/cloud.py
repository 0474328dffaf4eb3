"""The Markov palette in the cloud: features for tails, and pictures of a bundle with a decoder."""

from __future__ import annotations

from codec.base import Reconstructor, no_picture
from codec.features import FeatureCloud
from codec.latents import FeatureLatents
from codec.markov_palette import FAITHFUL, VIVID
from codec.markov_palette.coding import MarkovPaletteCodec
from shared.bundle import Bundle, PictureSpec

PICTURES = (PictureSpec(name=FAITHFUL), PictureSpec(name=VIVID))
"""Decoders of a bundle with a network for them; ``vivid`` needs the decoder's variances."""


class MarkovPaletteCloud(FeatureCloud):
    """Decodes, and opens reconstructors; torch is loaded with the first of them."""

    def open_reconstructor(self, *, device: str = "cpu") -> Reconstructor[FeatureLatents]:
        """See :meth:`codec.base.CloudCodec.open_reconstructor`."""
        if not self._bundle.manifest.pictures:
            raise no_picture(self._bundle)
        from codec.markov_palette.reconstruct import PictureReconstructor

        return PictureReconstructor.from_bundle(self._bundle, device=device)


def open_cloud(bundle: Bundle) -> MarkovPaletteCloud:
    """See :func:`codec.base.open_cloud`."""
    return MarkovPaletteCloud(bundle, MarkovPaletteCodec(bundle))

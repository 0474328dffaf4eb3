"""Lapped pictures in the cloud."""

from __future__ import annotations

from codec.base import Reconstructor, no_picture
from codec.features import FeatureCloud
from codec.lapped_lattice import FAITHFUL
from codec.lapped_lattice.coding import LappedCodec
from codec.latents import FeatureLatents
from shared.bundle import Bundle, PictureSpec

PICTURES = (PictureSpec(name=FAITHFUL),)


class LappedCloud(FeatureCloud):
    """Decodes, and opens reconstructors; torch is loaded with the first of them."""

    def open_reconstructor(self, *, device: str = "cpu") -> Reconstructor[FeatureLatents]:
        """See :meth:`codec.base.CloudCodec.open_reconstructor`."""
        if not self._bundle.manifest.pictures:
            raise no_picture(self._bundle)
        from codec.lapped_lattice.reconstruct import LappedReconstructor

        return LappedReconstructor.from_bundle(self._bundle, device=device)


def open_cloud(bundle: Bundle) -> LappedCloud:
    """See :func:`codec.base.open_cloud`."""
    return LappedCloud(bundle, LappedCodec(bundle))

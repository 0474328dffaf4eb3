"""The null codec in the cloud: a JPEG has its picture in itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codec.base import PLAIN, Pixels, Rendering
from codec.null.edge import JpegLatents, NullHalf
from codec.standalone import StandaloneCloud
from shared.bundle import Bundle
from shared.errors import BundleError


class JpegPictures:
    """See :class:`codec.base.Reconstructor`."""

    def reconstruct(
        self,
        batch: Sequence[JpegLatents],
        how: Rendering = PLAIN,
        *,
        before: Sequence[tuple[JpegLatents, Pixels] | None] = (),
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Pixels]:
        """What was decoded."""
        if how.decoder not in (None, "jpeg"):
            raise BundleError("unknown_decoder", f"there is no decoder {how.decoder!r}, but jpeg")
        return [latents.photo for latents in batch]


class NullCloud(NullHalf, StandaloneCloud[JpegLatents]):
    """See :class:`codec.base.CloudCodec`."""

    def open_reconstructor(self, *, device: str = "cpu") -> JpegPictures:
        """On any device."""
        return JpegPictures()


def open_cloud(bundle: Bundle) -> NullCloud:
    """See :func:`codec.base.open_cloud`."""
    return NullCloud(bundle)

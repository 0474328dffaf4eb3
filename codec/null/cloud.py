"""The null codec in the cloud: a JPEG has its picture in itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from codec.base import PLAIN, Pixels, Rendering, Tail
from codec.null.edge import JpegLatents, NullEdge
from shared.bundle import Bundle
from shared.errors import BundleError


class JpegPictures:
    """See :class:`codec.base.Reconstructor`."""

    def reconstruct(
        self,
        batch: Sequence[JpegLatents],
        how: Rendering = PLAIN,
        *,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Pixels]:
        """What was decoded."""
        if how.decoder not in (None, "jpeg"):
            raise BundleError("unknown_decoder", f"there is no decoder {how.decoder!r}, but jpeg")
        return [latents.photo for latents in batch]


class NullCloud:
    """See :class:`codec.base.CloudCodec`."""

    def __init__(self, bundle: Bundle) -> None:
        self.decode = NullEdge(bundle).decode

    def open_reconstructor(self, *, device: str = "cpu") -> JpegPictures:
        """On any device."""
        return JpegPictures()

    def open_tails(
        self, *, device: str = "cpu", threads: int = 1, score_threshold: float | None = None
    ) -> Mapping[str, Tail[JpegLatents]]:
        """There are none."""
        return {}


def open_cloud(bundle: Bundle) -> NullCloud:
    """See :func:`codec.base.open_cloud`."""
    return NullCloud(bundle)

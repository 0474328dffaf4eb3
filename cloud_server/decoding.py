"""One bitstream to one picture, for commands; the server batches with the same parts."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from cloud_server.device import check_device
from codec import PLAIN, Latents, Rendering, no_picture, open_cloud
from shared.bitstream import Bitstream
from shared.bundle import Bundle, bundle_for
from shared.errors import BitstreamError


def parse(data: bytes, state: int | None = None) -> tuple[Bitstream, str | None]:
    """The bitstream (at ``state``, if given) and a warning when the file's end is missing.

    Raises BitstreamError as :meth:`Bitstream.from_bytes` and ``truncate`` do.
    """
    warning = None
    try:
        bitstream = Bitstream.from_bytes(data)
    except BitstreamError as error:
        bitstream = Bitstream.from_bytes(data, allow_cut=True)
        warning = f"{error.message}; state {bitstream.state} is the finest that is complete"
    return (bitstream if state is None else bitstream.truncate(state)), warning


class BitstreamDecoder:
    """Decodes bitstreams of one bundle."""

    def __init__(self, bundle: Bundle, *, device: str = "cpu") -> None:
        """Raises BundleError for a damaged bundle, TaskError for a device that is not there."""
        check_device(device)
        self.bundle = bundle
        self._codec = open_cloud(bundle)
        self._reconstructor = (
            self._codec.open_reconstructor(device=device) if bundle.manifest.pictures else None
        )
        self.tails = self._codec.open_tails(device=device)
        """Tasks that run on this bundle's features, by name."""

    @property
    def makes_pictures(self) -> bool:
        """Whether there is a picture to be had of this bundle's features."""
        return self._reconstructor is not None

    def latents(self, bitstream: Bitstream) -> Latents:
        """The decoded features. Raises BitstreamError."""
        latents: Latents = self._codec.decode(bitstream)
        return latents

    def picture(self, bitstream: Bitstream, how: Rendering = PLAIN) -> npt.NDArray[np.uint8]:
        """The reconstruction: uint8 [height, width, 3] RGB. Raises BitstreamError.

        Raises BundleError ``no_picture`` for a bundle of features that are no picture's, and what
        :meth:`codec.base.Reconstructor.reconstruct` raises.
        """
        return self.picture_of(self.latents(bitstream), how)

    def picture_of(self, latents: Latents, how: Rendering = PLAIN) -> npt.NDArray[np.uint8]:
        """:meth:`picture` of features that are decoded already."""
        if self._reconstructor is None:
            raise no_picture(self.bundle)
        return self._reconstructor.reconstruct([latents], how)[0]


class Decoders:
    """A decoder for each bundle that files were made with, opened when the first file comes."""

    def __init__(self, bundle: str | None = None, *, device: str = "cpu") -> None:
        """bundle: for all files; None takes the packaged one that each file was made with.

        Raises BundleError, or TaskError for a device that is not there.
        """
        check_device(device)
        self.bundle = None if bundle is None else Bundle.load(bundle)
        self._device = device
        self._open: dict[bytes, BitstreamDecoder] = {}

    def of(self, bitstream: Bitstream) -> BitstreamDecoder:
        """The decoder for a bitstream; the default bundle's, which says so, for a foreign one."""
        bundle = bundle_for(bitstream.bundle_id, self.bundle)
        if bundle.short_id not in self._open:
            self._open[bundle.short_id] = BitstreamDecoder(bundle, device=self._device)
        return self._open[bundle.short_id]


def png_bytes(picture: npt.NDArray[np.uint8]) -> bytes:
    """uint8 [height, width, 3] RGB as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()

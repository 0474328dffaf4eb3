"""One bitstream to one picture, for commands; the server batches with the same parts."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from cloud_server.reconstruct import Reconstructor
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.codec import open_codec
from shared.errors import BitstreamError, TaskError


class BitstreamDecoder:
    """Parses and decodes .fwf bytes with one bundle."""

    def __init__(self, bundle: Bundle, *, device: str = "cpu") -> None:
        """Raises BundleError for a damaged bundle, TaskError for a device that is not there."""
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise TaskError("bad_device", f"device {device!r} cannot be used: {reason}") from None
        self.bundle = bundle
        self._codec = open_codec(bundle)
        self._reconstructor = Reconstructor.from_bundle(bundle, device=device)

    def parse(self, data: bytes, state: int | None = None) -> tuple[Bitstream, str | None]:
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

    def picture(
        self, bitstream: Bitstream, *, vivid_seed: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """The reconstruction: uint8 [height, width, 3] RGB. Raises BitstreamError.

        Faithful without, sampled with ``vivid_seed``; see :class:`Reconstructor`.
        """
        latents = self._codec.decode(bitstream)
        return self._reconstructor.reconstruct([latents], vivid_seed=vivid_seed)[0]


def png_bytes(picture: npt.NDArray[np.uint8]) -> bytes:
    """uint8 [height, width, 3] RGB as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()

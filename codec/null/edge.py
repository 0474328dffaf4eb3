"""The null codec on the edge. A state is a quality; every state is a chain of its own."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Hashable
from dataclasses import dataclass, replace

from PIL import Image
from pydantic import BaseModel

from codec.base import EdgeOptions, Pixels
from codec.standalone import StandaloneEdge, WithPhoto, check_bundle, too_small
from shared.bitstream import FORMAT_VERSION, Bitstream, Layer
from shared.bundle import Bundle
from shared.errors import BitstreamError, PhotoError
from shared.preprocess import load_photo
from shared.targets import FINEST, RateTarget, Regions


class NullSettings(BaseModel):
    """A JPEG quality, 1 to 95, for every state."""

    qualities: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class JpegLatents(WithPhoto):
    """A photo (uint8 [height, width, 3]), and the JPEG file that it was read from, if any."""

    state: int = 0
    file: bytes = b""
    batch_key: Hashable = None

    def checksum(self) -> bytes:
        """Of the file: decoders of JPEG may round differently."""
        return hashlib.sha256(bytes([self.state]) + self.file).digest()


class NullEdge(StandaloneEdge[JpegLatents]):
    """See :class:`codec.base.EdgeCodec`."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self._qualities = NullSettings.model_validate(bundle.manifest.settings).qualities

    def prepare(self, photo: Pixels) -> JpegLatents:
        """The photo as it is."""
        return JpegLatents(photo)

    def encode(
        self,
        photo: Pixels | JpegLatents,
        target: RateTarget = FINEST,
        *,
        regions: Regions = (),
        reference: JpegLatents | None = None,
        version: int = FORMAT_VERSION,
    ) -> Bitstream:
        """The finest quality that fits."""
        self.check(target)
        self._check_reference(reference)
        if regions:
            self.check_regions()
        pixels = photo.photo if isinstance(photo, JpegLatents) else photo
        height, width = pixels.shape[:2]
        budget, first = target.budget_bytes(width, height), target.state or 0
        for state, quality in list(enumerate(self._qualities))[first:]:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
            layers = (Layer(state, buffer.getvalue()),)
            made = Bitstream(self._bundle.short_id, width, height, state, layers, version=version)
            if budget is None or made.file_bytes <= budget:
                return made
        raise too_small(budget or 0, made.state, made.file_bytes)

    def passes(self, state: int) -> int:
        """One; none where there is no such state."""
        return int(state < len(self._qualities))

    def _recode(self, bitstream: Bitstream, version: int) -> Bitstream:
        read_layer(self._bundle, bitstream)
        return replace(bitstream, version=version, bundle_id=self._bundle.short_id)

    def _decode(self, bitstream: Bitstream) -> JpegLatents:
        return read_layer(self._bundle, bitstream)


def read_layer(bundle: Bundle, bitstream: Bitstream) -> JpegLatents:
    """The JPEG file of the one layer, read. Raises BitstreamError."""
    check_bundle(bitstream, bundle)
    state, layers = bitstream.state, bitstream.layers
    if len(layers) != 1 or bitstream.partial or state > bundle.manifest.coarsest_state:
        raise BitstreamError("bad_state", "a bitstream of this bundle has one whole layer")
    file = layers[0].payload
    try:
        photo = load_photo(file)
    except PhotoError as error:
        raise BitstreamError("bad_payload", f"the layer is no JPEG: {error}") from None
    if photo.shape[:2] != (bitstream.height, bitstream.width) or file[:2] != b"\xff\xd8":
        raise BitstreamError("bad_payload", "the layer is no JPEG of the picture's size")
    return JpegLatents(photo, state, file)


def open_edge(bundle: Bundle, options: EdgeOptions) -> NullEdge:
    """See :func:`codec.base.open_edge`."""
    return NullEdge(bundle)

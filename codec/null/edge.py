"""The null codec on the edge. A state is a quality; every state is a chain of its own."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Hashable
from dataclasses import dataclass

from PIL import Image
from pydantic import BaseModel

from codec.base import EdgeOptions, Pixels, check_bundle, check_state, no_reference
from shared.bitstream import Bitstream, Layer
from shared.bundle import Bundle
from shared.errors import BitstreamError, BudgetError, BundleError, PhotoError
from shared.preprocess import load_photo
from shared.targets import FINEST, RateTarget, Regions


class NullSettings(BaseModel):
    """A JPEG quality, 1 to 95, for every state."""

    qualities: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class JpegLatents:
    """A photo (uint8 [height, width, 3]), and the JPEG file that it was read from, if any."""

    photo: Pixels
    state: int = 0
    file: bytes = b""

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.photo.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.photo.shape[0])

    @property
    def batch_key(self) -> Hashable:
        """Any two can be handled together."""
        return None

    def checksum(self) -> bytes:
        """Of the file: decoders of JPEG may round differently."""
        return hashlib.sha256(bytes([self.state]) + self.file).digest()


class NullEdge:
    """See :class:`codec.base.EdgeCodec`."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._qualities = NullSettings.model_validate(bundle.manifest.settings).qualities

    def load(self) -> None:
        """There is nothing to load."""

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
    ) -> Bitstream:
        """The finest quality that fits."""
        self.check(target)
        if regions:
            self.check_regions()
        if reference is not None:
            raise no_reference(self._bundle)
        pixels = photo.photo if isinstance(photo, JpegLatents) else photo
        height, width = pixels.shape[:2]
        first = target.state or 0
        for state, quality in list(enumerate(self._qualities))[first:]:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
            layers = (Layer(state, buffer.getvalue()),)
            made = Bitstream(self._bundle.short_id, width, height, state, layers)
            budget = target.budget_bytes(width, height)
            if budget is None or made.file_bytes <= budget:
                return made
        raise _too_small(made, budget)

    def decode(self, bitstream: Bitstream, *, reference: JpegLatents | None = None) -> JpegLatents:
        """The JPEG file of the one layer, read."""
        if reference is not None:
            raise no_reference(self._bundle)
        bitstream.check()
        check_bundle(bitstream, self._bundle)
        if len(bitstream.layers) != 1 or bitstream.partial or self.passes(bitstream.state) != 1:
            raise BitstreamError("bad_state", "a bitstream of this bundle has one whole layer")
        file = bitstream.layers[0].payload
        try:
            photo = load_photo(file)
        except PhotoError as error:
            raise BitstreamError("bad_payload", f"the layer is no JPEG: {error}") from None
        if photo.shape[:2] != (bitstream.height, bitstream.width) or file[:2] != b"\xff\xd8":
            raise BitstreamError("bad_payload", "the layer is no JPEG of the picture's size")
        return JpegLatents(photo, bitstream.state, file)

    def shorten(self, bitstream: Bitstream, target: RateTarget) -> Bitstream:
        """It is short enough, or cannot be."""
        if target.psnr_db is not None:
            raise BudgetError("no_photo", "a PSNR target needs the photo")
        if target.state is not None:
            return bitstream.truncate(target.state)
        budget = target.budget_bytes(bitstream.width, bitstream.height)
        if budget is not None and bitstream.file_bytes > budget:
            raise _too_small(bitstream, budget)
        return bitstream

    def passes(self, state: int) -> int:
        """One; none where there is no such state."""
        return int(state < len(self._qualities))

    def check(self, target: RateTarget) -> None:
        """Any state, bits or bytes."""
        check_state(target, self._bundle)
        if target.psnr_db is not None:
            raise BundleError("no_psnr_model", "a JPEG does not say what PSNR to expect of it")

    def check_regions(self) -> None:
        """There are none."""
        raise BundleError("regions_unsupported", "a JPEG has one quality for all of the picture")


def _too_small(made: Bitstream, budget: int | None) -> BudgetError:
    text = f"the budget is {budget} bytes, but the picture takes {made.file_bytes}"
    return BudgetError("budget_too_small", text, budget_bytes=budget, needed_bytes=made.file_bytes)


def open_edge(bundle: Bundle, options: EdgeOptions) -> NullEdge:
    """See :func:`codec.base.open_edge`."""
    return NullEdge(bundle)

"""The null codec on the edge. A state is a quality; every state is a chain of its own."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel

from codec.base import EdgeOptions, Pixels
from codec.standalone import (
    StandaloneEdge,
    StandaloneHalf,
    WithPhoto,
    check_bundle,
    reference_mismatch,
    too_small,
)
from shared.bitstream import FORMAT_VERSION, Bitstream, Layer, Reference, format3
from shared.bitstream.layers import REFERENCE_CHECKSUM_BYTES
from shared.bundle import Bundle
from shared.errors import BitstreamError, PhotoError
from shared.limits import DEFAULT_LIMITS
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
        """Of the file: decoders of JPEG may round differently. Of the pixels where there is none,
        so that another decoder's frame is found out instead of being painted over."""
        size = repr(self.photo.shape).encode()
        what = self.file or size + np.ascontiguousarray(self.photo).tobytes()
        return hashlib.sha256(bytes([self.state]) + what).digest()


class NullHalf(StandaloneHalf[JpegLatents]):
    """What both halves do. A predicted frame replaces a rectangle of its reference, or nothing."""

    @property
    def predicts(self) -> bool:
        """It does."""
        return True

    def reference_checksum(self, latents: JpegLatents) -> bytes:
        """Of all of it: states are no parts of each other."""
        return latents.checksum()[:REFERENCE_CHECKSUM_BYTES]

    def cut(self, latents: JpegLatents, state: int) -> JpegLatents:
        """States are no parts of each other, so there is nothing coarser in one."""
        return latents

    def key_frame(self, latents: JpegLatents, *, version: int = FORMAT_VERSION) -> Bitstream:
        """Its JPEG file; a PNG of what was put together."""
        layers = (Layer(latents.state, latents.file or _png(latents.photo)),)
        return self._made(latents.photo, layers, version=version)

    def pack(self, latents: JpegLatents) -> bytes:
        """See :meth:`codec.base.Half.pack`."""
        return bytes([latents.state]) + (latents.file or _png(latents.photo))

    def unpack(self, data: bytes) -> JpegLatents:
        """See :meth:`codec.base.Half.unpack`."""
        try:
            return _latents(load_photo(data[1:]), data[0], data[1:])
        except (PhotoError, IndexError) as error:
            raise BitstreamError("bad_latents", f"no latents of this codec: {error}") from None

    def _made(
        self,
        photo: Pixels,
        layers: tuple[Layer, ...],
        *,
        version: int,
        reference: Reference | None = None,
    ) -> Bitstream:
        height, width = photo.shape[:2]
        return Bitstream(
            self._bundle.short_id,
            width,
            height,
            layers[0].state,
            layers,
            version=version,
            reference=reference,
        )

    def _decode(self, bitstream: Bitstream, reference: JpegLatents | None = None) -> JpegLatents:
        payload = self._payload(bitstream)
        if reference is not None:
            if reference.photo.shape[:2] != (bitstream.height, bitstream.width):
                raise reference_mismatch("a predicted frame has another size than its reference")
            return _patched(reference, payload, bitstream.state)
        photo = _read(payload)
        if photo.shape[:2] != (bitstream.height, bitstream.width):
            raise BitstreamError("bad_payload", "the layer is no picture of the frame's size")
        return _latents(photo, bitstream.state, payload)

    def _payload(self, bitstream: Bitstream) -> bytes:
        check_bundle(bitstream, self._bundle)
        layers, coarsest = bitstream.layers, self._bundle.manifest.coarsest_state
        if len(layers) != 1 or bitstream.partial or bitstream.state > coarsest:
            raise BitstreamError("bad_state", "a bitstream of this bundle has one whole layer")
        return layers[0].payload


class NullEdge(NullHalf, StandaloneEdge[JpegLatents]):
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
        distance: int = 1,
        version: int = FORMAT_VERSION,
    ) -> Bitstream:
        """The finest quality that fits."""
        self.check(target)
        if regions:
            self.check_regions()
        pixels = photo.photo if isinstance(photo, JpegLatents) else photo
        height, width = pixels.shape[:2]
        if version == format3.VERSION:
            reference = None
        budget, first = target.budget_bytes(width, height), target.state or 0
        for state, quality in list(enumerate(self._qualities))[first:]:
            payload, referred = _jpeg(pixels, quality), None
            if reference is not None:
                changed = _changed(_read(payload), reference.photo)
                if changed is not None:
                    payload = _patch(pixels, changed, quality)
                    referred = Reference(distance, self.reference_checksum(reference))
            layers = (Layer(state, payload),)
            made = self._made(pixels, layers, version=version, reference=referred)
            if budget is None or made.file_bytes <= budget:
                return made
        raise too_small(budget or 0, made.state, made.file_bytes)

    def passes(self, state: int) -> int:
        """One; none where there is no such state."""
        return int(state < len(self._qualities))

    def _recode(self, bitstream: Bitstream, version: int) -> Bitstream:
        self._decode(bitstream)
        return replace(bitstream, version=version, bundle_id=self._bundle.short_id)


_CHANGED = 12
"""Grey levels by which a block's JPEG differs on average, where it has changed."""
_BLOCK = 8
_MOST = 0.6
"""Of the picture; where more has changed a key frame is as good."""
_RECTANGLE = struct.Struct(">4H")


def _changed(photo: Pixels, before: Pixels) -> tuple[int, int, int, int] | None:
    """The rectangle (left, top, width, height) of blocks that differ, of size 0 where none does;
    None where a key frame is better."""
    if photo.shape != before.shape:
        return None
    height, width = photo.shape[:2]
    rows, columns = np.arange(0, height, _BLOCK), np.arange(0, width, _BLOCK)

    def blocks(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.add.reduceat(np.add.reduceat(values, rows, 0), columns, 1)

    away = blocks(np.abs(photo.astype(np.int64) - before).max(2))
    differs = away > _CHANGED * blocks(np.ones((height, width), np.int64))
    down, across = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    if not len(down):
        return 0, 0, 0, 0
    left, top = int(columns[across[0]]), int(rows[down[0]])
    right = min(width, int(columns[across[-1]]) + _BLOCK)
    bottom = min(height, int(rows[down[-1]]) + _BLOCK)
    if (right - left) * (bottom - top) > _MOST * width * height:
        return None
    return left, top, right - left, bottom - top


def _patch(photo: Pixels, changed: tuple[int, int, int, int], quality: int) -> bytes:
    left, top, width, height = changed
    if not width:
        return b""
    part = photo[top : top + height, left : left + width]
    return _RECTANGLE.pack(*changed) + _jpeg(part, quality)


def _patched(reference: JpegLatents, payload: bytes, state: int) -> JpegLatents:
    if not payload:
        return replace(reference, state=state)
    if len(payload) < _RECTANGLE.size:
        raise BitstreamError("bad_payload", "the layer ends within its rectangle")
    left, top, width, height = _RECTANGLE.unpack_from(payload)
    part, photo = _read(payload[_RECTANGLE.size :]), reference.photo.copy()
    here = photo[top : top + height, left : left + width]
    if part.shape != here.shape or not part.size:
        raise BitstreamError("bad_payload", "the layer's picture does not fit its rectangle")
    here[:] = part
    return JpegLatents(photo, state)


_ANY_SIDE = replace(DEFAULT_LIMITS, min_side=1)


def _read(file: bytes) -> Pixels:
    try:
        photo = load_photo(file, limits=_ANY_SIDE)
    except PhotoError as error:
        raise BitstreamError("bad_payload", f"the layer is no picture: {error}") from None
    if not file.startswith((_JPEG, _PNG)):
        raise BitstreamError("bad_payload", "the layer is neither JPEG nor PNG")
    return photo


_JPEG, _PNG = b"\xff\xd8", b"\x89PNG"


def _latents(photo: Pixels, state: int, file: bytes) -> JpegLatents:
    return JpegLatents(photo, state, file if file.startswith(_JPEG) else b"")


def _jpeg(photo: Pixels, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _png(photo: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def open_edge(bundle: Bundle, options: EdgeOptions) -> NullEdge:
    """See :func:`codec.base.open_edge`."""
    return NullEdge(bundle)

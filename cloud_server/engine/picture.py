"""Encodes a reconstruction for its way back."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import PhotoError
from shared.wire import Picture, PictureEncoding, PictureRequest
from shared.wire.transport import MAX_PICTURE_BYTES

DEFAULT_WEBP_QUALITY = 90


def encode_picture(
    image: NDArray[np.uint8], request: PictureRequest, *, max_bytes: int = MAX_PICTURE_BYTES
) -> Picture:
    """``image`` (uint8 HxWx3 RGB) as ``request`` wants it.

    Raises ``PhotoError("picture_too_large")`` when the encoded bytes exceed ``max_bytes``.
    """
    height, width = image.shape[:2]
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    match request.encoding:
        case PictureEncoding.PNG:
            # Level 1 costs a tenth more bytes than level 6 and a fifth of its time.
            picture.save(buffer, "PNG", compress_level=1)
        case PictureEncoding.WEBP:
            picture.save(buffer, "WEBP", quality=request.quality or DEFAULT_WEBP_QUALITY, method=2)
        case PictureEncoding.WEBP_LOSSLESS:
            picture.save(buffer, "WEBP", lossless=True, quality=20, method=1)
    data = buffer.getvalue()
    if len(data) > max_bytes:
        raise PhotoError(
            "picture_too_large",
            f"the picture takes {len(data)} bytes as {request.encoding}, more than the "
            f"{max_bytes} of one message; ask for webp",
            picture_bytes=len(data),
            max_bytes=max_bytes,
        )
    return Picture(request.encoding, width, height, data)

"""Photos as both ends see them: any file to ``uint8 HxWx3`` sRGB, padding, and cropping back.

file or bytes ── load_photo ──▶ uint8 HxWx3 ── pad_to_multiple ──▶ sides the codec can halve
                                             ◀── crop_to ─────── what the cloud reconstructs
"""

from shared.preprocess.geometry import (
    Placement,
    block_detail,
    crop_to,
    from_array,
    pad_to_multiple,
    padded_size,
)
from shared.preprocess.grey import is_grey, without_colour
from shared.preprocess.photo import FORMATS, load_photo

__all__ = [
    "FORMATS",
    "Placement",
    "block_detail",
    "crop_to",
    "from_array",
    "is_grey",
    "load_photo",
    "pad_to_multiple",
    "padded_size",
    "without_colour",
]

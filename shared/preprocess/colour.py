"""Any decoded Pillow image to 8-bit sRGB.

The rules, where a file leaves a choice:

* Transparent pixels are laid on WHITE, as on a page; no alpha reaches the codec.
* 16-bit greyscale is scaled by 255/65535 and rounded. Pillow itself keeps only the high byte
  of each 16-bit colour sample, so 16-bit RGB is rounded down.
* 32-bit integers and floats carry no range of their own: the smallest of the customary ranges
  (0..1 for floats, then 0..255, then 0..65535) that holds every value is the range. Negative
  values, larger ones and NaN are refused (``unsupported``).
* An embedded ICC profile (RGB, grey or CMYK, up to 4 MiB) is applied, relative to sRGB; a
  profile that is damaged, oversized, for another colour space, or changes no colour by more than
  rounding does (sRGB, whatever it is called) is left out, as is one on 16-bit or wider greyscale.
  Without a profile RGB is taken as sRGB, and CMYK is converted by Pillow's plain formula.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from shared.errors import PhotoError

BACKGROUND = 255  # grey level under transparent pixels: white
MAX_PROFILE_BYTES = 4 * 2**20
ROUNDING = 2
"""Levels of 255 by which a transform from sRGB to sRGB may change a colour."""

_PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # Pillow mode -> ICC colour space


def to_srgb(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a loaded image as C-contiguous uint8 HxWx3 sRGB.

    Raises PhotoError ``unsupported`` for values that have no customary range.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return np.stack([_grey_from_wide(image)] * 3, axis=2)
    profile = image.info.get("icc_profile")
    if image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return np.array(_apply_profile(image, lab))
    flat = _flatten(image)
    if isinstance(profile, bytes):
        flat = _without_profile(flat, profile)
    return np.array(flat.convert("RGB"))


def _grey_from_wide(image: Image.Image) -> NDArray[np.uint8]:
    """HxW uint8 of a greyscale image whose samples are wider than 8 bits."""
    levels = np.asarray(image)
    # A 16-bit mode says its range; Pillow also widens 16-bit PGM to "I", scaled to 65535.
    sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    full_scale = 65535 if sixteen_bit else _customary_range(levels)
    scaled = levels.astype(np.float64) * (255.0 / full_scale)
    grey: NDArray[np.uint8] = np.floor(scaled + 0.5).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[levels == transparent] = BACKGROUND
    return grey


def _customary_range(levels: NDArray[np.generic]) -> int:
    lowest, highest = float(levels.min()), float(levels.max())
    if lowest >= 0:  # False for NaN, which min() passes on
        ranges = (1, 255, 65535) if levels.dtype.kind == "f" else (255, 65535)
        for full_scale in ranges:
            if highest <= full_scale:
                return full_scale
    raise PhotoError(
        "unsupported",
        f"pixel values run from {lowest:g} to {highest:g}; no customary range holds them",
    )


def _flatten(image: Image.Image) -> Image.Image:
    """``image`` in mode RGB, L or CMYK, transparency laid on white."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        return Image.alpha_composite(page, rgba).convert("RGB")
    if image.mode in ("L", "CMYK", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _without_profile(image: Image.Image, icc: bytes) -> Image.Image:
    """``image`` in sRGB, or as it is when the profile is not one that we apply."""
    if len(icc) > MAX_PROFILE_BYTES:
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if profile.profile.xcolor_space.strip() != _PROFILE_SPACES[image.mode]:
            return image
        if _is_srgb(image.mode, profile):
            return image
        return _apply_profile(image, profile)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image  # a damaged profile does not make the photo unreadable


def _is_srgb(mode: str, profile: ImageCms.ImageCmsProfile) -> bool:
    """Whether the profile leaves colours (mode RGB or L) as they are, but for rounding.

    Its name says nothing: "Display P3 Gamut with sRGB Transfer" is not sRGB, and sRGB has many.
    """
    if mode == "CMYK":
        return False
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    if mode == "L":
        colours = np.arange(256, dtype=np.uint8).reshape(16, 16)
    probe = Image.fromarray(colours)
    changed = np.asarray(_apply_profile(probe, profile), np.int16)
    before = np.asarray(probe.convert("RGB"), np.int16)
    return int(np.abs(changed - before).max()) <= ROUNDING


def _apply_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None  # it is None only when converting in place
    return converted

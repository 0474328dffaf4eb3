"""A sheet of crops at equal bytes: what an owner of cameras sees of ours and of AVIF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from shared.bundle import Bundle
from training.evaluate.baselines import picture_baselines, smallest_within
from training.evaluate.subjects import Halves, PictureStates

Pixels = npt.NDArray[np.uint8]

SIDE = 160
"""Of a crop, in pixels; it is shown at its own size."""
RATES = (0.06, 0.2)
"""Bits per pixel of the whole photo: ours is the state nearest to it, AVIF the best file that is
no larger than ours."""
_RIVALS = ("avif", "avif-half")
_GAP, _LABEL = 6, 30
_MOST_BYTES = 250_000


@dataclass(frozen=True)
class Crop:
    """What is shown of which photo: the crop's left upper corner in pixels."""

    label: str
    photo: str
    left: int
    top: int


CROPS = (
    Crop("eyes", "astronaut", 150, 50),
    Crop("skin and hair", "cat", 130, 60),
    Crop("letters", "coffee", 60, 110),
    Crop("foliage and roofs", "temple", 300, 60),
    Crop("petals", "flower", 260, 120),
    Crop("sky at night", "rocket", 260, 60),
)


def write_crops(bundle: Bundle, photos: Mapping[str, Pixels], path: Path) -> list[str]:
    """Write the sheet as WebP, at most 250 kB; returns a line a crop and rate, as on the sheet.

    photos: uint8 [H, W, 3] by name; crops of others are left out.
    """
    halves = Halves(bundle)
    decoders = [PictureStates(halves, one.name, one.name) for one in bundle.manifest.pictures]
    rows: list[list[tuple[str, Pixels]]] = []
    said: list[str] = []
    coded: dict[str, list[tuple[str, Pixels]]] = {}
    for crop in CROPS:
        if crop.photo not in photos:
            continue
        if crop.photo not in coded:
            coded[crop.photo] = versions(decoders, photos[crop.photo])
        window = np.s_[crop.top : crop.top + SIDE, crop.left : crop.left + SIDE]
        cells = [(f"{crop.label}\noriginal", photos[crop.photo][window])]
        cells += [(label, pixels[window]) for label, pixels in coded[crop.photo]]
        rows.append(cells)
        said += [f"{crop.label}: {label.replace(chr(10), ', ')}" for label, _ in cells[1:]]
    sheet = _sheet(rows)
    for quality in range(92, 40, -4):
        sheet.save(path, "WEBP", quality=quality, method=6)
        if path.stat().st_size <= _MOST_BYTES:
            break
    return said


def versions(decoders: Sequence[PictureStates], pixels: Pixels) -> list[tuple[str, Pixels]]:
    """Label and decoded picture by each of our decoders, and of AVIF, at each of :data:`RATES`.

    AVIF is at full or half size, whichever is nearer by squared error; its smallest file where
    even that is larger than ours, which its label says.
    """
    area = pixels.shape[0] * pixels.shape[1]
    ours = [list(one.points(pixels, one.knobs)) for one in decoders]
    found = []
    for rate in RATES:
        near = [abs(np.log(8 * coded.bytes / area / rate)) for coded in ours[0]]
        place = int(np.argmin(near))
        for states, made in zip(decoders, ours, strict=True):
            one = made[place]
            assert one.picture is not None
            how = f", {states.name}" if len(decoders) > 1 else ""
            found.append((f"state {one.knob}{how}\n{one.bytes} bytes", one.picture))
        found.append(_rival(pixels, ours[0][place].bytes))
    return found


def _rival(pixels: Pixels, budget: int) -> tuple[str, Pixels]:
    candidates = []
    for baseline in picture_baselines():
        if baseline.name in _RIVALS:
            fitting = smallest_within(baseline, pixels, budget)
            if fitting is None:
                size, decoded = baseline.code(pixels, 0)
                candidates.append((True, size, decoded, baseline.name))
            else:
                candidates.append((False, fitting[1], fitting[2], baseline.name))
    fits = [one for one in candidates if not one[0]] or [min(candidates, key=lambda one: one[1])]
    errors = [float(((one[2].astype(float) - pixels) ** 2).mean()) for one in fits]
    larger, size, decoded, name = fits[int(np.argmin(errors))]
    return f"{name}\n{size} bytes{', its least' if larger else ''}", decoded


def _sheet(rows: list[list[tuple[str, Pixels]]]) -> Image.Image:
    columns = max(map(len, rows))
    step = (SIDE + _GAP, SIDE + _LABEL + _GAP)
    sheet = Image.new("RGB", (columns * step[0] - _GAP, len(rows) * step[1] - _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for row, cells in enumerate(rows):
        for column, (label, pixels) in enumerate(cells):
            left, top = column * step[0], row * step[1]
            draw.text((left + 2, top), label, fill="black", font=font, spacing=1)
            sheet.paste(Image.fromarray(pixels), (left, top + _LABEL))
    return sheet

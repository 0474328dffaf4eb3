"""Draws what tasks found onto a picture, for people."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from cloud_server.tasks.base import Image
from shared.results import Box, Face, TaskResult, decode_mask

# Letters need about 12 pixels; a picture with fewer pixels than this cannot hold them.
MIN_LONG_SIDE = 480

_MASK_OPACITY = 0.45
_LEAST_NAMED = 0.01
"""Share of the picture from which a region gets its name drawn."""
_LANDMARK_COLOUR = (0, 230, 255)

Colour = tuple[int, int, int]


def annotate(image: Image, results: Iterable[TaskResult]) -> Image:
    """A copy with boxes, labels, translucent masks and landmarks, as uint8 [H, W, 3].

    Classes of the whole picture are listed in its upper left corner; regions are tinted and named
    in the middle of their longest row.

    A picture whose long side is under ``MIN_LONG_SIDE`` is enlarged by a whole factor first, so
    that labels can be read; others keep their size. Raises TaskError(``bad_mask``).
    """
    results = list(results)
    factor = max(1, -(-MIN_LONG_SIDE // max(image.shape[:2])))
    canvas = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
    names: list[tuple[Box, str]] = []
    for result in results:
        for index, instance in enumerate(result.instances or ()):
            mask = decode_mask(instance.mask)
            mask = np.repeat(np.repeat(mask, factor, axis=0), factor, axis=1)
            _tint(canvas, mask, _colour(instance.class_name, index))
        for region in result.regions or ():
            mask = decode_mask(region.mask)
            if mask.mean() >= _LEAST_NAMED:
                names.append((_middle(mask), region.class_name))
            mask = np.repeat(np.repeat(mask, factor, axis=0), factor, axis=1)
            _tint(canvas, mask, _colour(region.class_name))
    drawing = _Drawing(canvas, factor)
    for place, name in names:
        drawing.name(place, name)
    for result in results:
        for found_class in result.classes or ():
            text = f"{found_class.class_name} {found_class.score:.0%}"
            drawing.line(text, _colour(found_class.class_name))
        for face in result.faces or ():
            drawing.face(face)
        for index, instance in enumerate(result.instances or ()):
            text = f"{instance.class_name} {instance.score:.0%}"
            drawing.box(instance.box, text, _colour(instance.class_name, index))
        for found in result.detections or ():
            text = f"{found.class_name} {found.score:.0%}"
            drawing.box(found.box, text, _colour(found.class_name))
    return drawing.finish()


class _Drawing:
    """Pillow's pen, with line widths and letters that fit the picture."""

    def __init__(self, canvas: NDArray[np.uint8], factor: int) -> None:
        self._picture = PilImage.fromarray(canvas)
        self._pen = ImageDraw.Draw(self._picture)
        self._factor = factor
        long_side = max(self._picture.size)
        self._line = max(2, round(long_side / 400))
        self._font = ImageFont.load_default(size=max(13, round(long_side / 45)))
        self._labels: list[tuple[Box, str, Colour]] = []
        self._lines: list[tuple[str, Colour]] = []

    def box(self, box: Box, text: str, colour: Colour) -> None:
        self._pen.rectangle(self._scaled(box), outline=colour, width=self._line)
        self._labels.append((box, text, colour))

    def name(self, place: Box, text: str) -> None:
        """A label with no outline."""
        self._labels.append((place, text, _colour(text)))

    def line(self, text: str, colour: Colour) -> None:
        """The next of the lines in the upper left corner."""
        self._lines.append((text, colour))

    def face(self, face: Face) -> None:
        radius = max(0.8, face.box.width * self._factor / 150)
        for x, y, _ in face.landmarks:
            x, y = x * self._factor, y * self._factor
            dot = (x - radius, y - radius, x + radius, y + radius)
            self._pen.ellipse(dot, fill=_LANDMARK_COLOUR)
        text = f"face {face.score:.0%}"
        self.box(face.box, text, _LANDMARK_COLOUR)

    def finish(self) -> Image:
        """The picture, with the labels on top of everything else."""
        for box, text, colour in self._labels:
            self._label(self._scaled(box), text, colour)
        top = 0.0
        for text, colour in self._lines:
            # A box without height at the top: the label goes below it.
            top = self._label((0.0, top, 0.0, top), text, colour, above=False)
        return np.array(self._picture)

    def _label(
        self, box: Sequence[float], text: str, colour: Colour, *, above: bool = True
    ) -> float:
        """Above the box, else inside its top; always inside the picture. Where it ends below."""
        pad = self._line
        left, top, right, bottom = self._font.getbbox(text)
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        x = max(0.0, min(box[0], self._picture.width - width))
        y = box[1] - height if above and box[1] >= height else box[1]
        y = max(0.0, min(y, self._picture.height - height))
        self._pen.rectangle((x, y, x + width, y + height), fill=colour)
        ink = (0, 0, 0) if _luma(colour) > 128 else (255, 255, 255)
        self._pen.text((x + pad - left, y + pad - top), text, fill=ink, font=self._font)
        return y + height

    def _scaled(self, box: Box) -> tuple[float, float, float, float]:
        values = (box.x_min, box.y_min, box.x_max, box.y_max)
        x0, y0, x1, y1 = (value * self._factor for value in values)
        return x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)


def _middle(mask: NDArray[np.bool_]) -> Box:
    """A point inside the mask: the middle of the longest run in its most covered row."""
    row = int(mask.sum(axis=1).argmax())
    edges = np.flatnonzero(np.diff(np.pad(mask[row].astype(np.int8), 1)))
    starts, ends = edges[::2], edges[1::2]
    longest = int((ends - starts).argmax())
    x, y = float(starts[longest] + ends[longest]) / 2, float(row)
    return Box(x_min=x, y_min=y, x_max=x, y_max=y)


def _tint(canvas: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Colour) -> None:
    inside = canvas[mask].astype(np.float32)
    tinted = inside * (1 - _MASK_OPACITY) + np.array(colour, np.float32) * _MASK_OPACITY
    canvas[mask] = np.round(tinted).astype(np.uint8)


def _colour(name: str, index: int = 0) -> Colour:
    """A bright colour that a class always has; another one for each further instance of it."""
    hue = (zlib.crc32(name.encode()) % 360 / 360 + 0.15 * index) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _luma(colour: Colour) -> float:
    """BT.601 luma, 0..255."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]

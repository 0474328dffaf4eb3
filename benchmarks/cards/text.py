"""A page of letters, and what a text recogniser still reads of it after coding."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image, ImageDraw, ImageFont

from shared.weights import ModelStore

Pixels = npt.NDArray[np.uint8]

WEIGHTS = "text-recogniser"
SIDE = 512
"""Of the page, in pixels."""
SIZES = (14, 20, 28, 40)
"""Heights of type, in pixels from line to line at single spacing."""
# fmt: off
_WORDS = (
    "gate", "camera", "street", "number", "exit", "parking", "open", "closed", "north", "platform",
    "keep", "clear", "delivery", "visitors", "only", "reception", "private", "warning", "station",
    "bakery", "market", "school", "speed", "limit",
)
# fmt: on
_PAPERS = (((245, 245, 240), (20, 20, 20)), ((30, 50, 110), (240, 240, 240)))
"""Colours of the paper and of its letters: a notice and a road sign."""
_LINE_HEIGHT = 48
"""Of the recogniser's input, in pixels."""


@dataclass(frozen=True)
class Line:
    """What is written, the height of its type, and where: left, top, right, bottom in pixels."""

    text: str
    size: int
    box: tuple[int, int, int, int]


def page(seed: int = 0) -> tuple[Pixels, list[Line]]:
    """uint8 [512, 512, 3] pixels of words in all sizes, dark on light and light on dark."""
    chosen = random.Random(seed)
    sheet = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(sheet)
    lines = []
    for half, (paper, ink) in enumerate(_PAPERS):
        begin = half * SIDE // 2
        draw.rectangle((0, begin, SIDE, begin + SIDE // 2), fill=paper)
        top = begin + 8
        for size in SIZES:
            font = ImageFont.load_default(size)
            for _ in range(2):
                text = _fill(chosen, font)
                draw.text((12, top), text, fill=ink, font=font)
                found = draw.textbbox((12, top), text, font=font)
                box = (8, int(found[1]) - 3, min(SIDE, int(found[2]) + 5), int(found[3]) + 4)
                lines.append(Line(text, size, box))
                top += round(size * 1.15)
    return np.asarray(sheet), lines


def _fill(chosen: random.Random, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As many words, and a number, as fit on a line."""
    text = f"{chosen.randrange(10, 9999)}"
    while True:
        longer = f"{text} {chosen.choice(_WORDS)}"
        if font.getlength(longer) > SIDE - 32:
            return text
        text = longer


class Reader:
    """Reads lines: PaddleOCR's recogniser (PP-OCRv4, Apache-2.0), greedily over its letters."""

    def __init__(self, store: ModelStore) -> None:
        """Raises ModelError ``missing`` when the weights were not fetched."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._network = onnxruntime.InferenceSession(
            str(store.path(WEIGHTS)), options, providers=["CPUExecutionProvider"]
        )
        known = self._network.get_modelmeta().custom_metadata_map["character"].splitlines()
        # Class 0 says that there is no letter; after the letters that are listed comes the space.
        self._letters = ["", *known, " "]

    def read(self, line: Pixels) -> str:
        """What is written on uint8 [h, w, 3]."""
        width = max(_LINE_HEIGHT, round(line.shape[1] * _LINE_HEIGHT / line.shape[0]))
        resized = cv2.resize(line, (width, _LINE_HEIGHT), interpolation=cv2.INTER_LINEAR)
        values = (resized[..., ::-1].astype(np.float32) / 255 - 0.5) / 0.5
        scores = self._network.run(None, {"x": values.transpose(2, 0, 1)[None].copy()})[0][0]
        best = scores.argmax(1)
        kept = best[np.insert(best[1:] != best[:-1], 0, True)]
        return "".join(self._letters[letter] for letter in kept)

    def errors(self, pixels: Pixels, lines: Sequence[Line]) -> dict[int, float]:
        """Size of type -> character error rate, 0 to 1: edits over letters, capitals ignored."""
        edits, letters = dict.fromkeys(SIZES, 0), dict.fromkeys(SIZES, 0)
        for line in lines:
            left, top, right, bottom = line.box
            found = self.read(np.ascontiguousarray(pixels[top:bottom, left:right]))
            edits[line.size] += edit_distance(_plain(line.text), _plain(found))
            letters[line.size] += len(_plain(line.text))
        return {size: min(1.0, edits[size] / letters[size]) for size in SIZES}


def _plain(text: str) -> str:
    return "".join(text.lower().split())


def edit_distance(first: str, second: str) -> int:
    """Letters to insert, remove or replace (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for number, letter in enumerate(first, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(second, 1):
            cheapest = min(row[place] + 1, row[place - 1] + 1, before + (letter != other))
            before, row[place] = row[place], cheapest
    return row[-1]

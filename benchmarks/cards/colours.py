"""Flat, grey and saturated cards: how far decoded colours are from those that were sent.

The difference is CIEDE2000 (Sharma, Wu and Dalal, Color Research and Application, 2005): 1 is about
the least that an eye sees when two colours touch, 2 to 3 are seen at a glance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

SIDE = 256
"""Of a card, in pixels."""

FLAT: dict[str, Colour] = {
    "skin": (194, 150, 130),
    "dark skin": (115, 82, 68),
    "sky": (98, 122, 157),
    "leaves": (87, 108, 67),
    "wall": (214, 206, 190),
    "asphalt": (74, 76, 80),
}
"""Muted colours that cameras look at, sRGB."""
GREY: dict[str, Colour] = {f"grey {value}": (value,) * 3 for value in (16, 64, 128, 192, 240)}
"""Where a tint is seen first."""
SATURATED: dict[str, Colour] = {
    "red": (200, 20, 30),
    "green": (20, 160, 40),
    "blue": (20, 40, 190),
    "yellow": (235, 205, 20),
    "magenta": (190, 30, 150),
    "cyan": (10, 150, 180),
}
"""Signs, coats and lamps."""
KINDS = ("flat", "grey", "saturated", "patches")


def cards() -> Iterator[tuple[str, str, Pixels]]:
    """Kind, name and uint8 [256, 256, 3] pixels of every card.

    ``patches`` is one card of all colours beside each other, in squares of 42 pixels.
    """
    colours = {"flat": FLAT, "grey": GREY, "saturated": SATURATED}
    for kind, named in colours.items():
        for name, colour in named.items():
            yield kind, name, np.full((SIDE, SIDE, 3), colour, np.uint8)
    everything = [colour for named in colours.values() for colour in named.values()]
    side = 42
    card = np.full((SIDE, SIDE, 3), 128, np.uint8)
    for number in range((SIDE // side) ** 2):
        top, left = (side * place + 2 for place in divmod(number, SIDE // side))
        card[top : top + side, left : left + side] = everything[number * 7 % len(everything)]
    yield "patches", "patches", card


def difference(original: Pixels, decoded: Pixels) -> float:
    """Mean CIEDE2000 over the pixels of two pictures, uint8 [H, W, 3] sRGB of one size.

    Raises ValueError for pictures of two sizes.
    """
    from skimage import color

    space: Any = color  # its functions have no types

    if original.shape != decoded.shape:
        raise ValueError(f"pictures of two sizes: {original.shape} and {decoded.shape}")
    return float(space.deltaE_ciede2000(*map(space.rgb2lab, (original, decoded))).mean())

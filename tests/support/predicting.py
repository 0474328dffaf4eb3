"""A moving picture as a device codes it: key frames, and frames predicted from those before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codec.base import open_edge
from shared.bitstream import Bitstream
from shared.bundle import Bundle


def moving(count: int, *, still: Sequence[int] = ()) -> list[NDArray[np.uint8]]:
    """uint8 [96, 160, 3] each: a square wanders over noise, and rests in the ``still`` ones."""
    rng = np.random.default_rng(3)
    ground = rng.integers(0, 255, (12, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    photos, at = [], 0
    for number in range(count):
        at += 0 if number in still else 8
        photo = ground.copy()
        photo[24:56, at % 128 : at % 128 + 32] = (255, 0, number % 2 * 255 if not still else 0)
        photos.append(photo)
    return photos


def coded(
    bundle: Bundle, photos: Sequence[NDArray[np.uint8]], *, keys: Sequence[int] = (0,)
) -> list[Bitstream]:
    """The photos, each predicted from the one before it but for those that are ``keys``."""
    edge = open_edge(bundle)
    bitstreams: list[Bitstream] = []
    before = None
    for number, photo in enumerate(photos):
        bitstream = edge.encode(photo, reference=None if number in keys else before)
        before = edge.decode(bitstream, reference=before)
        bitstreams.append(bitstream)
    assert [one.reference is None for one in bitstreams] == [n in keys for n in range(len(photos))]
    return bitstreams

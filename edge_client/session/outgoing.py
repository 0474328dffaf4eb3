"""Photos on their way out: encoded at the rate that is wanted, or at what the bandwidth allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_client.rate import RateControl
from edge_client.session.describe import Photo
from edge_client.session.framing import Framer, Outgoing, SendWith
from edge_client.session.wishes import PictureWish
from shared.bitstream import Bitstream
from shared.codec import RateTarget
from shared.codec.rate import FINEST
from shared.preprocess import load_photo

TYPICAL_PIXELS = 640 * 480
"""Of a picture, where the bundle brings all to one size: what they take does not go by theirs."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a caller wants of each photo; as for ``EdgeSession.send``."""

    rate: RateTarget = FINEST
    tasks: Iterable[str] | None = None
    picture: PictureWish = None
    refinable: bool = False
    send_with: SendWith = ()


MakeFrame = Callable[[Photo, Wishes], Outgoing]


def make_frame(framer: Framer, control: RateControl, photo: Photo, wishes: Wishes) -> Outgoing:
    """Encode a photo; raises as ``Framer.frame`` does."""
    rate = wishes.rate
    if control.active and not _is_encoded(photo):
        if not isinstance(photo, np.ndarray):
            photo = np.asarray(load_photo(photo))  # type: ignore[arg-type]
        manifest = framer.describer.bundle.manifest
        states = manifest.states
        pixels = photo.shape[0] * photo.shape[1] if manifest.resize is None else TYPICAL_PIXELS
        rate = control.target(rate, states, pixels)
        frame = _frame(framer, photo, replace(wishes, rate=rate))
        first = frame.parts[0].sent
        if first is not None and first.passes == 0:
            row = next(row for row in states if row.state == first.state)
            size = sum(part.sent.file_bytes for part in frame.parts if part.sent is not None)
            control.encoded(row, pixels, size)
        return frame
    return _frame(framer, photo, wishes)


def _frame(framer: Framer, photo: Photo, wishes: Wishes) -> Outgoing:
    return framer.frame(
        photo, wishes.rate, wishes.tasks, wishes.picture, wishes.refinable, wishes.send_with
    )


def _is_encoded(photo: Photo) -> bool:
    if isinstance(photo, str | Path):
        return Path(photo).suffix.lower() == ".fwf"
    return isinstance(photo, Bitstream)

"""Photos on their way out: encoded at the rate that is wanted, or at what the bandwidth allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_client.rate import RateControl
from edge_client.session.describe import Describer, Photo
from edge_client.session.framing import Framer, Outgoing, SendWith
from edge_client.session.wishes import PictureWish
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import FeatherwireError
from shared.preprocess import load_photo
from shared.targets import FINEST, RateTarget

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
    """Encode a photo; raises as ``Framer.frame`` does.

    Between frames is when another bundle takes the first one's place. One that cannot encode what
    the one before can gives way to that again.
    """
    switch = framer.switch
    if switch is None:
        return _make(framer, control, photo, wishes)
    framer.describer = switch.settle(framer.describer)
    if switch.wants_photo() and not _is_encoded(photo):

        def encode(describer: Describer, photo: Photo) -> Bitstream:
            if not isinstance(photo, np.ndarray):
                photo = np.asarray(load_photo(photo))  # type: ignore[arg-type]
            rate = control.target(
                wishes.rate, describer.bundle.manifest.states, _pixels(describer, photo)
            )
            (part,) = describer.describe(photo, rate, keep=False, regions=framer.regions).parts
            assert part.sent is not None
            return part.sent

        def tasks_of(bundle: Bundle) -> tuple[str, ...]:
            wanted = framer.wanted_tasks(wishes.tasks, (bundle,))
            return tuple(task for task in wanted if framer.server_tasks.possible(task, (bundle,)))

        switch.try_on(photo, encode, tasks_of)
    used = framer.describer
    try:
        return _make(framer, control, photo, wishes)
    except Exception as error:
        before = switch.previous(used)
        if before is None:
            raise
        framer.describer = before
        try:
            frame = _make(framer, control, photo, wishes)
        except FeatherwireError:  # it is the photo
            framer.describer = used
            raise error from None
        switch.failed(error)
        return frame


def _make(framer: Framer, control: RateControl, photo: Photo, wishes: Wishes) -> Outgoing:
    rate = wishes.rate
    if control.active and not _is_encoded(photo):
        if not isinstance(photo, np.ndarray):
            photo = np.asarray(load_photo(photo))  # type: ignore[arg-type]
        states = framer.describer.bundle.manifest.states
        pixels = _pixels(framer.describer, photo)
        rate = control.target(framer.describer.within(rate), states, pixels)
        frame = _frame(framer, photo, replace(wishes, rate=rate))
        first = frame.parts[0].sent
        if first is not None and first.passes == 0:
            # What regions add is learned as if the rest cost more.
            told = first.state if rate.state is None else max(rate.state, first.state)
            row = next(row for row in states if row.state == told)
            size = sum(part.sent.file_bytes for part in frame.parts if part.sent is not None)
            control.encoded(row, pixels, size)
        return frame
    return _frame(framer, photo, wishes)


def _pixels(describer: Describer, photo: Photo) -> int:
    if describer.bundle.manifest.resize is not None or not isinstance(photo, np.ndarray):
        return TYPICAL_PIXELS
    return photo.shape[0] * photo.shape[1]


def _frame(framer: Framer, photo: Photo, wishes: Wishes) -> Outgoing:
    return framer.frame(
        photo, wishes.rate, wishes.tasks, wishes.picture, wishes.refinable, wishes.send_with
    )


def _is_encoded(photo: Photo) -> bool:
    if isinstance(photo, str | Path):
        return Path(photo).suffix.lower() == ".fwf"
    return isinstance(photo, Bitstream)

"""Context networks of lapped pictures, of key frames and of predicted ones.

They are those of nested lattices, fitted to what the stream shows them; see
:mod:`codec.lattice_palette.train.nested.contexts`. A deeper value is told in another way here, so
its bits are counted here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from torch import Tensor
from torch.nn import functional

from codec.lapped_lattice.contexts import LAST, OF_THREE, LappedContexts
from codec.lapped_lattice.lattice import LappedPalette
from codec.lattice_palette.train.nested.contexts import (
    Clip,
    Kind,
    NestedContextsPart,
    fit_nested,
)


def fit_contexts(
    palette: LappedPalette,
    clips: Sequence[Clip],
    stills: Iterable[Clip],
    settings: NestedContextsPart,
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> LappedContexts:
    """See :func:`~codec.lattice_palette.train.nested.contexts.fit_nested`; without clips the
    contexts predict nothing."""
    made = fit_nested(palette, clips, stills, settings, kind=LAPPED, jobs=jobs, progress=progress)
    assert isinstance(made, LappedContexts)
    return made if clips else key_frames_only(made)


def key_frames_only(made: LappedContexts) -> LappedContexts:
    """The same contexts without those of predicted frames."""
    networks = {name: one for name, one in made.networks.items() if name.startswith("key.")}
    return LappedContexts(made.palette, networks, made.odds, made.bent, None)


def bits_of_deeper(odds: Tensor, away: Tensor, above: Tensor) -> Tensor:
    """What rows of a deeper depth take, all channels together: float32 [n].

    odds: [n, 4, C]. away: how far from what was expected, with
    :data:`~codec.lapped_lattice.contexts.LAST` where it could not be further, or
    :data:`~codec.lapped_lattice.contexts.OF_THREE`. above: 0 or 1. All as recorded.
    """
    differs, side, more, further = odds.unbind(1)
    is_away = (away > 0).float()
    zero = is_away * (away < OF_THREE)
    last = zero * (away > LAST)
    size = away - LAST * last

    def cost(given: Tensor, bits: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(given, bits, reduction="none")

    told = cost(differs, is_away) + is_away * cost(side, above)
    larger = zero * (size > 1)
    # What can't be further away isn't asked whether it is.
    told = told + (larger + (zero - larger) * (1 - last)) * cost(more, larger)
    steps = functional.softplus(-further) * (size - 2)
    told = told + larger * (steps + (1 - last) * functional.softplus(further))
    return told.sum(1) / math.log(2)


LAPPED: Final = Kind(LappedContexts, bits_of_deeper)

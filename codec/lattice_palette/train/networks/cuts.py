"""Where a network of layers can be cut in two, and where that is cheapest.

Layers are numbered in the order in which they run, and each says which earlier ones it reads. Cut
behind layer i, everything that later layers read of layers 0..i must cross: that many values are
the cut's cost, and the multiply-adds up to there are what the edge has to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from shared.errors import RecipeError


@dataclass(frozen=True)
class LayerFacts:
    """A layer: the layers it reads (-1 is the picture), the shape [C, h, w] of its output (None
    where that is no single grid), and its multiply-adds for one picture."""

    reads: tuple[int, ...]
    shape: tuple[int, int, int] | None
    multiply_adds: int


@dataclass(frozen=True)
class Cut:
    """Behind layer ``after``; the outputs of layers ``crossing`` go over, ``values`` numbers in
    all. ``edge_share``: the edge's part of the network's multiply-adds, 0..1."""

    after: int
    crossing: tuple[int, ...]
    values: int
    edge_share: float


def find_cuts(layers: Sequence[LayerFacts]) -> list[Cut]:
    """Every cut over which only grids go, and not the picture itself; in order."""
    whole = sum(layer.multiply_adds for layer in layers)
    cuts, done = [], 0
    for after in range(len(layers) - 1):
        done += layers[after].multiply_adds
        read = {source for layer in layers[after + 1 :] for source in layer.reads}
        crossing = tuple(sorted(source for source in read if source <= after))
        shapes = [layers[source].shape if source >= 0 else None for source in crossing]
        if all(shape is not None for shape in shapes):
            values = sum(prod(shape) for shape in shapes if shape is not None)
            cuts.append(Cut(after, crossing, values, done / max(1, whole)))
    return cuts


def cheapest_cut(cuts: Sequence[Cut], most_on_edge: float) -> Cut:
    """The cut with the fewest values of those that leave the edge at most that share of the
    multiply-adds; of equal ones the earliest.

    Raises RecipeError ``no_cut``.
    """
    possible = [cut for cut in cuts if cut.edge_share <= most_on_edge]
    if not possible:
        least = min((cut.edge_share for cut in cuts), default=1.0)
        raise RecipeError(
            "no_cut",
            f"every cut leaves the edge more than {most_on_edge:.0%}: {least:.0%} at least",
        )
    return min(possible, key=lambda cut: (cut.values, cut.after))


def cut_after(cuts: Sequence[Cut], after: int) -> Cut:
    """The cut behind that layer. Raises RecipeError ``no_cut``."""
    for cut in cuts:
        if cut.after == after:
            return cut
    known = ", ".join(str(cut.after) for cut in cuts)
    raise RecipeError("no_cut", f"the network cannot be cut behind layer {after}, but: {known}")

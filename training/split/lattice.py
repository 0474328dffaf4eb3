"""Palettes that round: leaves are the most frequent patterns of whole steps.

At low rates an entropy-constrained tree has the smaller squared error, but its error *is* the weak
part of the signal; at equal squared error, tails mind that twice as much as rounding's, which is
more like noise (and it is what the bottleneck was trained with). So these leaves lie on the
lattice of the operating point's steps, and the nearest one is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lattice_leaves(vectors: Tensor, step: float, depth: int) -> tuple[Tensor, Tensor]:
    """The ``2**depth`` most frequent patterns, in tree order, and how often each is nearest.

    vectors: float32 [n, channels]. Returns float32 [2**depth, channels] and int64 [2**depth].
    Where there are fewer patterns, the last ones are repeated and stand for nothing.
    """
    patterns, counts = torch.unique((vectors / step).round(), dim=0, return_counts=True)
    best = counts.argsort(descending=True, stable=True)[: 2**depth]
    leaves = patterns[best]
    if len(leaves) < 2**depth:
        leaves = torch.cat([leaves, leaves[-1:].expand(2**depth - len(leaves), -1)])
    leaves = _in_tree_order(leaves) * step
    half = 0.5 * leaves.square().sum(1)
    member = torch.cat([(rows @ leaves.T - half).argmax(1) for rows in vectors.split(65536)])
    return leaves, torch.bincount(member, minlength=2**depth)


def channel_bits(vectors: Tensor, step: float) -> list[float]:
    """The entropy of every rounded channel, by itself: bits a position."""
    found = []
    for column in (vectors / step).round().long().T:
        share = torch.bincount(column - column.min()).double() / len(column)
        share = share[share > 0]
        found.append(float(-(share * share.log2()).sum()))
    return found


def groups_of(bits: list[float], most: float) -> list[int]:
    """Consecutive channels in groups of at most ``most`` bits together: their sizes."""
    sizes, total = [0], 0.0
    for value in bits:
        if sizes[-1] and total + value > most:
            sizes.append(0)
            total = 0.0
        sizes[-1] += 1
        total += value
    return sizes


def _in_tree_order(leaves: Tensor) -> Tensor:
    """Halve along the widest channel, and so on, so that siblings are close."""
    if len(leaves) == 1:
        return leaves
    spread = leaves.var(0, unbiased=False)
    # Ties are told apart by the other channels, the wider ones first.
    order = torch.arange(len(leaves))
    for channel in spread.argsort():
        order = order[leaves[order, channel].argsort(stable=True)]
    ordered = leaves[order]
    middle = len(leaves) // 2
    return torch.cat([_in_tree_order(ordered[:middle]), _in_tree_order(ordered[middle:])])
